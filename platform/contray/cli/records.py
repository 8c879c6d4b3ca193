"""contray records"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from . import documents
from .options import Positional, arg, json_note
from .output import answer

EXAMPLES = (
    ("contray records", "what was measured, by whom, on what machine"),
    ("contray records cifar10_equal_budget", "its rows, and the command that gives them"),
    ("contray records --json", "all of it for a script"),
)


@dataclass(frozen=True)
class Options:
    """What was measured: numbers with their command, commit and machine, ours and those that others published of recipes that are presets here."""

    records: Annotated[Positional[tuple[str, ...]], arg("these alone, with their rows")] = ()
    json: Annotated[bool, json_note(documents.RECORDS)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Show the tables."""
    from ..reporting.measured import records
    from .results import show_records

    with answer(options.json) as tell:
        found = records(options.records)
        tell(found)
        if not options.json:
            show_records(found, whole=bool(options.records))
    return 0
