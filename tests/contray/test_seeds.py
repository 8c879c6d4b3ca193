"""Groups of seeds: what is finished is not run again, the group has one owner and one MLflow run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contray import RunConfig, track
from contray.cli import main
from contray.cli.results import show_seeds
from contray.storage.folder import Storage
from contray.training import seeds
from contray.training.launch import Result
from contray.training.lease import held

TINY = {
    **{"data.size": 16, "data.renderings": 1, "data.workers": 0, "views.view.size": 16, "backbone.width": 4},
    **{"method.projector_hidden": 16, "method.projector_dim": 8, "train.batch_size": 64, "train.precision": "fp32"},
    **{"train.steps": 1, "train.device": "cpu", "eval.every_epochs": 0, "eval.final": (), "track.model": False},
    **{"scale.workers": (0, 0), "scale.cpus_per_worker": 1},
}


@pytest.fixture
def config(tmp_path: Path, store: str) -> RunConfig:
    return RunConfig.make("simclr", {**TINY, "scale.storage": str(tmp_path / "runs"), "track.uri": store}, preset="digits")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that were really run; seed 1 is interrupted at its first try."""
    found: list[int] = []
    launch: Callable[..., Any] = seeds.launch

    def watched(config: RunConfig, **options: Any) -> Any:
        if config.seed == 1 and 1 not in found:
            found.append(1)
            raise KeyboardInterrupt
        found.append(config.seed)
        return launch(config, **options)

    monkeypatch.setattr(seeds, "launch", watched)
    return found


def test_every_seed_is_linked(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"knn_top1": 0.5, "linear_top1": 0.25}
    show_seeds(config, [Result(f"r-s{seed}", metrics, f"id{seed}", f"http://x/id{seed}", "runs/r", 1, True) for seed in (0, 1)])
    said = capsys.readouterr().out
    assert [" ".join(line.split()) for line in said.splitlines()[-2:]] == ["seed 0 http://x/id0", "seed 1 http://x/id1"]


def test_the_same_command_goes_on_with_the_seeds_that_are_left(config: RunConfig, ran: list[int], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        seeds.launch_seeds(config, 2, quiet=True)
    assert ran == [0, 1]
    results = seeds.launch_seeds(config, 2, quiet=True)
    assert ran == [0, 1, 1], "a finished seed was run again"
    assert [each.finished for each in results] == [True, True]
    assert [each.step for each in results] == [1, 1]
    more = seeds.launch_seeds(config, 3, quiet=True)
    assert ran == [0, 1, 1, 2]
    assert [each.run_id for each in more][:2] == [each.run_id for each in results]
    runs = track.client(config.track.uri).search_runs(["1"])
    (parent,) = [run for run in runs if run.data.tags["contray.kind"] == "seeds"]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs if run is not parent} == {parent.info.run_id}
    assert len(runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    base = f"{config.run_name}-seeds"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {base, *(f"{base}-s{seed}" for seed in range(3))}


def test_a_group_has_one_owner_one_config_and_a_name_of_its_own(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        word
        for key, value in TINY.items()
        for word in (f"--{key}", *(map(str, value) if isinstance(value, tuple) else [str(value)]))
    ]
    words = ["train", "--preset", "digits", "--seeds", "2", "--track.name", "g", "--track.uri", config.track.uri, *words]
    words += ["--scale.storage", config.scale.storage]
    group = Storage(config.scale.storage) / "g"
    group.create()
    with held(group):
        assert main(words) == 2
    assert "track.name: g is being trained by process" in capsys.readouterr().err
    for content, said in (
        ("{", "damaged"), ("[]", "damaged"), ('{"seeds": 2}', "damaged"), ('{"run_id": "x", "config": "x", "seeds": 2}', "of another config"),
    ):  # fmt: skip
        group.write("seeds.json", content.encode())
        assert main(words) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert main([*words, "--seeds", "1"]) == 2
    assert "track.name: g is a group of seeds in" in capsys.readouterr().err


MEASURED = {
    "eval.final": ("knn", "linear", "geometry"),
    "eval.linear.epochs": 1,
    "eval.linear.lrs": (1.0,),
    "eval.linear.decays": (0.0,),
}


def test_a_seed_whose_verdict_is_lost_is_measured_again_under_its_name(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config.replace(MEASURED)
    (first,) = seeds.launch_seeds(config, 1, quiet=True)
    (Path(config.scale.storage) / f"{config.run_name}-seeds" / "seeds.json").unlink()  # a group that lacks nothing is left alone
    (read,) = seeds.launch_seeds(config, 1, quiet=True)
    assert (read.metrics, read.details["about"]) == (first.metrics, first.details["about"]), "read and measured are one thing"
    verdict = Path(first.checkpoint) / "verdict.json"
    for damage in (lambda: verdict.write_bytes(verdict.read_bytes()[:20]), verdict.unlink):
        damage()
        (Path(config.scale.storage) / f"{config.run_name}-seeds" / "seeds.json").unlink()
        (again,) = seeds.launch_seeds(config, 1, quiet=True)
        assert (again.name, again.run_id, again.metrics, again.step) == (first.name, first.run_id, first.metrics, 1)
    assert "the same weights are measured again" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").iterdir())) == 2, "a seed was trained again under another name"


def test_a_group_goes_on_with_a_key_that_may_change(config: RunConfig) -> None:
    seeds.launch_seeds(config, 1, quiet=True)
    named = config.replace({"track.name": f"{config.run_name}-seeds"})
    for key, value in (("train.allow_changes", True), ("train.on_nan", "skip"), ("data.workers", 1)):
        name, record = seeds._group(named.replace({key: value}), 2, Storage(config.scale.storage), named.track.name)
        assert name == named.track.name
        assert record["seeds"] == 1
