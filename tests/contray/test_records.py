"""`records/`: every file is whole, says by whom, on what and where, and what presets quote of others stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from contray.cli import documents, main
from contray.config.registry import load_method
from contray.errors import UserError
from contray.reporting import measured
from contray.reporting.measured import Measured, records

REPO = Path(__file__).parents[2]
ALL = records()


@pytest.mark.parametrize("record", ALL, ids=lambda each: each.record)
def test_a_record_is_whole(record: Measured) -> None:
    assert len({row["name"] for row in record.rows}) == len(record.rows)
    if record.by == "contray":
        page, _, heading = record.where.partition(", ")
        assert heading in (REPO / page).read_text(), f"{record.where} is not there"
    else:
        assert record.where.startswith("https://")
        assert "not run here" in record.notes, "whose numbers these are"


def test_presets_quote_the_records_of_others() -> None:
    for name, preset in (("solo_learn_cifar10", "cifar"), ("lightly_cifar10", "cifar_lightly")):
        (record,) = records([name])
        for row in record.rows:
            _, number, *_ = row.values()
            about = load_method(row["name"]).presets[preset].about
            quoted = re.search(r"measured ([\d.]+) %", about)
            assert quoted, about
            assert float(quoted[1]) == number, row["name"]


GOOD = {
    "what": "x", "command": "contray train", "by": "contray", "machine": "M1", "commit": "0123abc", "where": "here",
    "rows": [{"name": "a", "s": 1}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"by": ""}, "by: missing"),
        ({"commit": "main"}, "commit: got 'main', must be 7 to 40 hex digits"),
        ({"machine": "M9"}, "machine: got 'M9', which records/machines.yaml does not describe"),
        ({"rows": []}, "rows: missing"),
        ({"rows": [{"name": "a"}]}, "must be a name and numbers"),
        ({"rows": [{"name": "a", "s": "fast"}]}, "rows: a: s: got 'fast', must be a number"),
        ({"extra": 1}, "extra: unknown; a record has what, command,"),
    ],
)
def test_what_a_record_lacks_is_told(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    (tmp_path / "machines.yaml").write_text("M1: a machine\n")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD | changes))
    if not said:
        assert records(folder=tmp_path)[0].machine_is == "a machine"
        return
    with pytest.raises(UserError, match=re.escape(said)):
        records(folder=tmp_path)


def test_the_command_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records"]) == 0
    shown = capsys.readouterr().out
    assert all(each.record in shown for each in ALL)
    assert main(["records", "loop_overhead"]) == 0
    shown = capsys.readouterr().out
    assert "0.997" in shown
    assert "command  python tests/benchmarks/overhead.py" in shown
    assert main(["records", "--json", "loop_overhead"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert set(document) == {
        "record",
        *(word.strip() for word in re.sub(r"\(.*\)|of each record,", "", documents.RECORDS).split(",")),
    }
    assert main(["records", "loop_overhaed"]) == 2
    assert "did you mean loop_overhead?" in capsys.readouterr().err
    assert measured.FOLDER.is_dir()
