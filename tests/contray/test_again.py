"""A run whose MLflow run is gone: what is said, and the ways out."""

from __future__ import annotations

from pathlib import Path

import pytest

from contray import RunConfig, track
from contray.training.launch import launch
from contray.training.result import Result
from contray.training.syncing import sync
from tests.stores import fresh

TINY = {
    **{"data.size": 16, "data.renderings": 1, "data.workers": 0, "views.view.size": 16, "backbone.width": 4},
    **{"method.projector_hidden": 16, "method.projector_dim": 8, "train.batch_size": 64, "train.precision": "fp32"},
    **{"train.device": "cpu", "eval.every_epochs": 0, "eval.final": (), "track.model": False, "optim.schedule": "constant"},
    **{"scale.workers": (0, 0), "scale.cpus_per_worker": 1, "track.name": "r", "train.log_every": 1, "train.audit": True},
    **{"optim.warmup_epochs": 0},
}


def train(place: Path, store: str, steps: int, extend: str = "no", again: bool = False) -> Result:
    own = {
        "scale.storage": str(place / "runs"),
        "track.uri": store,
        "train.steps": steps,
        "train.extend": extend,
        "track.again": again,
    }
    return launch(RunConfig.make("simclr", {**TINY, **own}, preset="digits"), quiet=True)


def test_a_run_that_was_deleted_has_ways_out(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(tmp_path, store, 2)
    talk = track.client(store)
    talk.delete_run(first.run_id)
    with pytest.raises(
        track.RunGone, match=rf"^track\.uri: run {first.run_id} was deleted in MLflow; `mlflow runs restore --run-id"
    ):
        train(tmp_path, store, 4, "exact")
    with pytest.raises(track.RunGone, match="brings it back"):
        sync(["r"], storage=str(tmp_path / "runs"))
    longer = train(tmp_path, store, 4, "exact", again=True)
    assert longer.run_id != first.run_id
    assert longer.step == 4
    said = capsys.readouterr().out
    assert f"r: MLflow run {longer.run_id} takes the place of one that is gone" in said
    assert talk.get_run(longer.run_id).data.tags["contray.replaces"] == first.run_id
    steps = [step for step, _ in track.attach(store, longer.run_id).history("loss")]
    assert steps == [1, 2, 3, 4], "of the audit the steps before, of the run those since, each once"
    assert train(tmp_path, store, 4, again=True).name == "r-2", "a run that is there is not begun again"
    talk.restore_run(first.run_id)


def test_a_store_that_was_lost_is_filled_from_the_folder(store: str, tmp_path: Path) -> None:
    first = train(tmp_path, store, 2)
    (tmp_path / "new").mkdir()
    new = f"sqlite:///{tmp_path}/new/mlflow.db"
    fresh(tmp_path / "new")
    with pytest.raises(track.RunGone, match=rf"^track\.uri: {new} has no run {first.run_id} \(it was deleted for good") as gone:
        sync(["r"], storage=str(tmp_path / "runs"), uri=new)
    assert "\n" not in str(gone.value)
    (done,) = sync(["r"], storage=str(tmp_path / "runs"), uri=new, again=True)
    assert done.run_id != first.run_id
    run = track.attach(new, done.run_id)
    assert run.status() == "FINISHED"
    assert [step for step, _ in run.history("loss")] == [1, 2]
    assert run.kept() >= {"config.yaml", "curves.png", "views.png"}
    (again,) = sync(["r"], storage=str(tmp_path / "runs"), uri=new, again=True)
    assert again.run_id == done.run_id
    assert str(again) == "r: nothing was missing"
