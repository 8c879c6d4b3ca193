"""--json: stdout holds one document whose fields are those that the help names; all else goes to stderr."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contray.cli import documents, main
from contray.cli.main import COMMANDS, command_of
from contray.cli.options import options_of
from contray.cli.output import plain
from contray.exchange.embedding import Embedded
from contray.training.result import Result
from contray.tuning import SweepResult, Trial
from tests.stores import fresh

TINY = (
    "--scale.workers 0 0 --train.steps 2 --train.batch_size 32 --data.renderings 1 --data.size 16 --data.workers 0 --backbone.width 4 "
    "--eval.every_epochs 0 --eval.knn.k 5 --eval.linear.epochs 1 --track.model true"
)


@dataclass(frozen=True)
class Place:
    folder: Path
    uri: str
    first: dict[str, Any]  # what `train --json` printed

    def say(self, words: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> Any:
        """The one document that a command prints."""
        assert main([*words.split(), "--json", "--track.uri", self.uri]) == code
        return only(capsys.readouterr().out)


def only(out: str) -> Any:
    def refused(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert out.endswith(("}\n", "]\n"))
    return json.loads(out, parse_constant=refused)


def fields(words: str) -> set[str]:
    """The names at the top of what a help says of a document."""
    while "(" in words:
        words = re.sub(r"\([^()]*\)", "", words)
    return {name.strip() for name in words.split(",")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One tiny run, trained by the command itself in a process of its own."""
    folder = tmp_path_factory.mktemp("json")
    uri = fresh(folder)
    words = ["train", "simclr", "--preset", "digits", *TINY.split(), "--scale.storage", str(folder / "runs"), "--track.uri", uri]
    ended = subprocess.run(
        [sys.executable, "-m", "contray", *words, "--json"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert "top-1 accuracy" in ended.stderr or "linear" in ended.stderr
    return Place(folder, uri, only(ended.stdout))


def test_train(place: Place) -> None:
    assert set(place.first) == fields(documents.RUN)
    assert place.first["finished"] is True
    assert place.first["step"] == 2
    assert 0 <= place.first["metrics"]["linear_top1"] <= 1
    assert (Path(place.first["checkpoint"]).is_dir(), place.first["unsent"], place.first["unmeasured"]) == (True, 0, "")


def test_compare_sync_export_and_plot(place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run, metrics = place.first["run_id"], place.first["metrics"]
    found = place.say(f"compare --run {run} --out {tmp_path}/c.png", capsys)
    assert set(found) == fields(documents.COMPARISON)
    (row,) = found["rows"]
    assert set(row) == fields(re.search(r"rows \((.*)\), left_out", documents.COMPARISON)[1])
    assert row["run_ids"] == [run]
    assert row["metrics"]["linear_top1"] == {"mean": metrics["linear_top1"], "std": None, "n": 1}

    found = place.say(f"sync --scale.storage {place.folder}/runs", capsys)
    assert set(found) == fields(documents.SYNCED)
    for each in found["runs"]:
        assert set(each) == fields(documents.SYNCED[documents.SYNCED.index("name") : -1])

    found = place.say(f"export --run {run} --to safetensors --out {tmp_path}/encoder", capsys)
    assert set(found) == fields(documents.EXPORTED)
    assert (Path(found["file"]).is_file(), found["registered"]) == (True, None)

    found = place.say(f"plot similarities --run {run} --out {tmp_path}/s.png", capsys)
    assert set(found) == fields(documents.PICTURE)
    assert Path(found["picture"]).is_file()


def test_a_refused_command_prints_no_document(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--json", "--run", "x", "--track.uri", place.uri]) == 2
    assert capsys.readouterr().out == ""


def test_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "simclr", "--preset", "digits", "--dry-run", "--json", *TINY.split()]) == 0
    out, err = capsys.readouterr()
    found = only(out)
    assert set(found) == fields(documents.DRY.removeprefix("with --dry-run: "))
    assert found["config"]["train.steps"] == 2
    assert found["facts"]["steps"].startswith("2 of 32 samples")
    assert "nothing was started" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("methods", documents.METHODS),
        ("evaluations", documents.EVALUATIONS),
        ("spaces", documents.SPACES),
        ("studies", documents.STUDIES),
    ],
)
def test_lists(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([words, "--json"]) == 0
    for row in only(capsys.readouterr().out):
        assert set(row) == fields(said.removeprefix("of each "))


def result(seed: int, top1: float) -> Result:
    return Result(
        f"r-s{seed}", {"linear_top1": top1}, f"id{seed}", "http://x", "runs/r", 5, True, {"labelled": True, "seconds": 1.0}
    )


def test_seeds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from contray.training import seeds

    monkeypatch.setattr(seeds, "launch_seeds", lambda *args, **more: [result(3, 0.5), result(4, 0.7)])
    assert main(["train", "--preset", "digits", "--seeds", "2", "--seed", "3", "--json"]) == 0
    found = only(capsys.readouterr().out)
    assert set(found) == fields(documents.SEEDS.removeprefix("with --seeds: "))
    assert [each["seed"] for each in found["seeds"]] == [3, 4]
    assert set(found["seeds"][0]) == fields(documents.RUN) | {"seed"}
    assert (found["name"], found["mean"]["linear_top1"]) == ("r", pytest.approx(0.6))
    assert found["std"]["linear_top1"] == pytest.approx(0.02**0.5)


def test_tune_where_a_metric_is_no_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from contray import tuning

    trials = [
        Trial("t1", {"method.temperature": 0.1}, "finished", {"linear_val_top1": 0.9}, "a", "runs/t1", 7),
        Trial("t2", {"method.temperature": 0.2}, "failed", {"linear_val_top1": float("nan")}, "b", "runs/t2", 3, "it broke"),
    ]
    swept = SweepResult(
        "s",
        "linear_val_top1",
        trials,
        trials[0],
        Path("best.yaml"),
        Path("p.png"),
        "r",
        "http://c",
        {"method.temperature": 1},
        "http://p",
    )
    monkeypatch.setattr(tuning, "sweep", lambda *args, **more: swept)
    assert main(["tune", "simclr", "--json"]) == 0
    found = only(capsys.readouterr().out)
    assert set(found) == fields(documents.SWEEP)
    assert (found["best"], found["best_config"], found["trials"][1]["metrics"]) == ("t1", "best.yaml", {"linear_val_top1": None})
    assert set(found["trials"][0]) == fields(documents.SWEEP[documents.SWEEP.index("of each ") + 8 : -1])


def test_embed_and_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import contray.api
    from contray import RunConfig
    from contray.exchange import importing

    monkeypatch.setattr(contray.api, "embed", lambda *args, **more: Embedded(5, 1, 2, 0, "out", "1 .txt"))
    assert main(["embed", "photos", "--run", "x", "--json"]) == 0
    assert set(only(capsys.readouterr().out)) == fields(documents.EMBEDDED)

    class Imported:
        config = RunConfig.make("imported")

    monkeypatch.setattr(importing, "import_file", lambda *args, **more: Imported)
    assert main(["import", "vit.pth", "--layout", "dino", "--json"]) == 0
    assert only(capsys.readouterr().out) == {"out": "vit", "backbone": "resnet50", "size": 224}


def test_whatever_writes_to_stdout_does_not_reach_it() -> None:
    code = """
import os, subprocess, sys
from contray.cli.output import answer
with answer(True) as tell:
    print("by print")
    os.write(1, b"by a library\\n")
    subprocess.run(["echo", "by a child"])
    tell({"a": 1})
print("after")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == '{\n "a": 1\n}\nafter\n'
    assert sorted(ended.stderr.splitlines()) == ["by a child", "by a library", "by print"]


def test_who_reads_may_stop_reading_a_document() -> None:
    words = [sys.executable, "-m", "contray", "methods", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_values_as_json_has_them() -> None:
    import numpy as np

    values = {"a": float("inf"), "b": (np.float32(0.5), -float("inf")), 3: Path("x"), "d": [np.int64(4), None, True, "ü"]}
    assert plain(values) == {"a": None, "b": [0.5, None], "3": "x", "d": [4, None, True, "ü"]}


def test_every_command_with_a_table_has_it() -> None:
    without = {name for name in COMMANDS if "--json" not in {each.flag for each in options_of(command_of(name).Options)}}
    assert without <= {"ui", "completion", "new", "data preview", "data scenes"}
