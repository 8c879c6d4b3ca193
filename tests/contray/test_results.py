"""What is told of methods, spaces and planned runs, to people and to scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contray.cli import main
from contray.config.registry import load_method, method_names
from contray.config.spaces import load_space, space_names

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_names_every_method() -> None:
    listed = README.read_text().partition("Methods, a file each in [methods/](methods): ")[2].partition(".")[0]
    assert listed.split(", ") == list(method_names())


def test_methods_as_json_name_every_method_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(method_names())
    for name, row in rows.items():
        file = load_method(name)
        assert row["presets"] == {preset: chosen.about for preset, chosen in file.presets.items()}
        assert (row["year"], row["paper"], row["url"]) == (file.paper.year, file.paper.title, file.paper.url)


def test_methods_as_a_table_name_every_method_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    for name in method_names():
        file = load_method(name)
        assert file.paper.url in shown
        for preset in file.presets:
            assert any(line.split()[:2] == ["│", name] and preset in line.split() for line in shown.splitlines()), (name, preset)


def test_spaces_as_json_name_every_space_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces", "--json"]) == 0
    rows = {row["space"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(space_names())
    for name, row in rows.items():
        space = load_space(name)
        assert (row["method"], row["about"], list(row["keys"])) == (space.METHOD, space.ABOUT, list(space.SPACE))
        assert all(row["keys"].values())


def test_spaces_as_a_table_name_every_space_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces"]) == 0
    shown = capsys.readouterr().out
    for name in space_names():
        assert name in shown
        assert all(key in shown for key in load_space(name).SPACE)


def test_dry_run_tells_what_follows_from_the_config_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # each fact on one line
    keys = "--backbone.width 4 --train.batch_size 128 --train.epochs 3 --train.steps 0 --optim.lr 0.06 --optim.warmup_epochs 1"
    own = "--method.queue_size 512 --train.norm_groups 8 --data.renderings 1 --scale.workers 1 2"
    assert main(["train", "moco", "--preset", "digits", "--dry-run", *keys.split(), *own.split()]) == 0
    shown = capsys.readouterr().out
    title, *lines = shown.splitlines()
    facts = {line[:21].strip(): line[21:] for line in lines}
    assert len(lines) == 13
    assert title == "dry run: nothing was started"
    assert facts["data"] == "digits, 1,438 training samples, 10 classes"
    assert facts["steps"] == "33 of 128 samples (3.0 epochs of 11 full batches)"
    assert facts["learning rate"].startswith("0.03 at its peak (0.06 per 256, linear scaling), 11 warm-up steps")
    assert facts["effective negatives"] == "512 per anchor"
    assert facts["norm groups"] == "8 of 16 samples, whatever the number of workers"
    assert facts["workers"] == "1 to 2, 64 samples each at 2"
    assert facts["memory"].startswith("about ")
    assert "B per worker" in facts["memory"]
    assert facts["time"].startswith("about ")
    assert facts["run"].startswith("moco-digits-")
    assert not list(tmp_path.iterdir())
