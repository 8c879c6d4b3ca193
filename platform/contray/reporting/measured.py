"""What was measured, by whom, where: the files of `records/`, one measurement each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..tables import Table

FOLDER = Path(__file__).parents[1] / "records"
MACHINES = "machines"
WORDS = ("what", "command", "by", "machine", "commit", "where")  # that every record has; notes besides, and its rows


@dataclass(frozen=True)
class Measured:
    """A measurement. machine: its name and what that is; rows: of each its name and numbers, all with their units in the column's name."""

    record: str
    what: str
    command: str
    by: str
    machine: str
    machine_is: str
    commit: str
    where: str
    notes: str
    rows: tuple[Mapping[str, Any], ...]

    @property
    def columns(self) -> list[str]:
        """The columns of all rows, in the order in which they first stand."""
        return list(dict.fromkeys(key for row in self.rows for key in row))


def records(names: Sequence[str] = (), folder: Path = FOLDER) -> list[Measured]:
    """These records, or all there are. Raises UserError for an unknown name and a file that lacks something."""
    machines = _read(folder / f"{MACHINES}.yaml")
    known = sorted(path.stem for path in folder.glob("*.yaml") if path.stem != MACHINES)
    for name in names:
        if name not in known:
            raise UserError(f"records: got {name!r}; {nearest(name, known)}")
    return [_record(folder / f"{name}.yaml", machines) for name in names or known]


def table(record: Measured) -> Table:
    """Its rows; a dash where one has no such number."""
    made = Table(f"{record.record}: {record.what}", *record.columns)
    for row in record.rows:
        made.add(*(str(row.get(key, "-")) for key in record.columns))
    return made


def page() -> str:
    """All records in Markdown."""
    text = [
        "# Records",
        "What was measured, by whom and on what machine: the files of `records/`, which `contray records` prints and a test checks.",
    ]
    for each in records():
        told = [each.notes, f"By {each.by}: {each.where}.", f"{each.machine}: {each.machine_is}.", f"Commit {each.commit}."]
        text += [
            f"## {each.record}",
            each.what,
            table(each).markdown(),
            "\n".join(filter(None, told)),
            f"```bash\n{each.command}\n```",
        ]
    return "\n\n".join(text) + "\n"


def _record(path: Path, machines: Mapping[str, Any]) -> Measured:
    tree = _read(path)

    def wrong(key: str, why: str) -> UserError:
        return UserError(f"records/{path.name}: {key}: {why}")

    for key in tree:
        if key not in (*WORDS, "notes", "rows"):
            raise wrong(key, f"unknown; a record has {', '.join(WORDS)}, notes and rows")
    for key in WORDS:
        if not isinstance(tree.get(key), str) or not tree[key].strip():
            raise wrong(key, "missing, or no text")
    if tree["machine"] not in machines:
        raise wrong("machine", f"got {tree['machine']!r}, which records/{MACHINES}.yaml does not describe")
    if not re.fullmatch(r"[0-9a-f]{7,40}", tree["commit"]):
        raise wrong("commit", f"got {tree['commit']!r}, must be 7 to 40 hex digits (in quotes where all are digits)")
    rows = tree.get("rows")
    if not isinstance(rows, list) or not rows:
        raise wrong("rows", "missing: of each its name and numbers")
    for row in rows:
        numbers = {key: value for key, value in row.items() if key != "name"} if isinstance(row, dict) else {}
        if not numbers or not isinstance(row.get("name"), str):
            raise wrong("rows", f"got {row!r}, must be a name and numbers")
        for key, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise wrong("rows", f"{row['name']}: {key}: got {value!r}, must be a number")
    words = {key: tree[key] for key in WORDS}
    return Measured(path.stem, **words, machine_is=machines[tree["machine"]], notes=str(tree.get("notes", "")), rows=tuple(rows))


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"records/{path.name} cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise UserError(f"records/{path.name} holds no mapping")
    return tree
