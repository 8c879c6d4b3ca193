"""After an outage of MLflow: training has ended well, said what is unsent, and `contray sync` sends it, once."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import contray
from contray import RunConfig, track
from contray.cli import main
from contray.evaluation.common.tables import GEOMETRY
from contray.storage.checkpoint import latest
from contray.storage.folder import Storage
from contray.training import spool, worker

from .test_end_to_end import MEASURED, TINY, words

STEPS = 4
KEYS = {**TINY, "train.steps": STEPS, "eval.every_epochs": 0.1}  # k-NN on held-out images after step 2, and at the end
CURVES = {"loss": 4, "lr": 4, "grad_norm": 4, "images_per_second": 4, "contrast_top1": 4, "knn_val_top1": 2}


class Down:
    """No call gets through while `down` holds, be it a client in the thread or one that is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.down, self._patch, self._real = False, monkeypatch, track.store.client
        for module in (track.store, track.metric_log):
            monkeypatch.setattr(module, "client", self.client)

    def client(self, uri: str) -> Any:
        if self.down:
            raise ConnectionError("the server went away")
        return self._real(uri)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Down:
    monkeypatch.setattr(track.metric_log, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(worker, "CLOSE_SECONDS", 0.3)
    return Down(monkeypatch)


@pytest.fixture
def down_from_step_2(outage: Down, monkeypatch: pytest.MonkeyPatch) -> Down:
    """MLflow answers until two steps are done."""
    real = worker.Recorder.log

    def log(self: worker.Recorder, step: int, values: dict[str, float]) -> None:
        outage.down = outage.down or step == 2
        real(self, step, values)

    monkeypatch.setattr(worker.Recorder, "log", log)
    return outage


def keys(tmp_path: Path, store: str) -> dict[str, Any]:
    return {**KEYS, "scale.storage": str(tmp_path / "runs"), "track.uri": store, "track.name": "r"}


def of_mlflow(store: str, record: dict[str, Any]) -> tuple[Any, dict[str, list[int]]]:
    talk = track.client(store)
    run = talk.get_run(record["run_id"])
    return run, {name: [point.step for point in talk.get_metric_history(record["run_id"], name)] for name in run.data.metrics}


def test_what_an_outage_kept_away_is_said_and_sent_once(
    store: str, tmp_path: Path, down_from_step_2: Down, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words(keys(tmp_path, store))) == 0
    err = capsys.readouterr().err
    folder = tmp_path / "runs" / "r"
    left = json.loads((folder / spool.SPOOL).read_text())["points"]
    assert f"contray: {len(left)} metric points and artifacts did not reach MLflow" in err
    assert f"`contray sync r --scale.storage {tmp_path / 'runs'}` sends them" in err
    record = json.loads((folder / "run.json").read_text())
    assert (record["finished"], record["synced"], record["status"]) == (True, False, "FINISHED")
    assert {name for name, *_ in left} >= set(MEASURED)

    monkeypatch.setattr(worker.Recorder, "log", lambda *args: pytest.fail("nothing trains"))
    down_from_step_2.down = True
    assert main(["sync", "r", "--scale.storage", "runs"]) == 2
    assert "MLflow" in capsys.readouterr().err
    assert json.loads((folder / spool.SPOOL).read_text())["points"] == left

    down_from_step_2.down = False
    run, before = of_mlflow(store, record)
    assert run.info.status == "RUNNING"
    assert main(["sync", "r", "--scale.storage", "runs"]) == 0
    out = capsys.readouterr().out
    run, after = of_mlflow(store, record)
    sent = sum(map(len, after.values())) - sum(map(len, before.values()))
    assert sent == len(left)
    assert out.startswith(
        f"r: sent {sent} points, data set, description, views.png, curves.png, neighbours.png, encoder, status FINISHED"
    )
    online = {"knn_val_top1": 2, **{name: 3 for name in GEOMETRY}}  # the geometry after the first step as well
    about = {"fit_images": 2, "val_images": 2, "test_images": 1}  # what they stand on, online as well
    about |= {"knn_gain": 1, "linear_gain": 1}
    about |= {f"{other}_{name}_gain_error": 1 for other in ("random", "pixels") for name in ("knn", "linear")}
    assert {name: len(steps) for name, steps in after.items()} == {**CURVES, **{name: 1 for name in MEASURED}, **online, **about}
    assert all(len(steps) == len(set(steps)) for steps in after.values())
    assert run.info.status == "FINISHED"
    assert run.info.end_time == record["ended"]
    assert run.data.metrics["linear_top1"] == json.loads((folder / "verdict.json").read_text())["linear_top1"]
    assert not (folder / spool.SPOOL).exists()
    assert not (folder / "lease.json").exists()
    assert contray.load(run.info.run_id, uri=store).config.run_name == RunConfig.from_file(folder / "config.yaml").run_name

    assert main(["sync", "r", "--scale.storage", "runs"]) == 0
    assert capsys.readouterr().out == "r: nothing was missing\n"
    assert main(["sync", "--scale.storage", "runs"]) == 0
    assert "lacks nothing" in capsys.readouterr().out
    assert of_mlflow(store, record)[1] == after


def test_points_that_had_arrived_are_not_sent_again(
    store: str, tmp_path: Path, down_from_step_2: Down, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = contray.train(RunConfig.make("simclr", {**keys(tmp_path, store), "track.model": False}, preset="digits"), quiet=True)
    down_from_step_2.down = False
    folder = Storage(result.checkpoint)
    left = spool.get(folder)
    half = track.MetricLog(track.attach(store, result.run_id), pending=left[::2])
    assert half.close(10) == 0
    (done,) = contray.sync([result.checkpoint])
    assert (done.sent, done.unsent) == (len(left) - len(left[::2]), 0)
    steps = of_mlflow(store, {"run_id": result.run_id})[1]
    assert all(max(Counter(found).values()) == 1 for found in steps.values())
    assert len(steps["loss"]) == STEPS


def test_a_run_whose_driver_died_is_killed_and_its_checkpoint_has_the_points(
    store: str, tmp_path: Path, down_from_step_2: Down, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without spool and record of an end: the newest checkpoint alone tells."""
    result = contray.train(RunConfig.make("simclr", {**keys(tmp_path, store), "track.model": False}, preset="digits"), quiet=True)
    down_from_step_2.down = False
    folder = Path(result.checkpoint)
    (folder / spool.SPOOL).unlink()
    (folder / "verdict.json").unlink()
    (folder / "run.json").write_text(json.dumps({"run_id": result.run_id, "finished": False}))
    state = latest(Storage(result.checkpoint))
    assert state is not None
    (done,) = contray.sync(storage=str(tmp_path / "runs"), uri=store)
    assert done.sent == len(state["points"]) > 0
    assert done.status == "KILLED"
    run, steps = of_mlflow(store, {"run_id": result.run_id})
    assert sorted(steps["loss"]) == list(range(1, STEPS + 1))
    assert run.info.status == "KILLED"


def test_without_a_spool_the_verdict_is_sent_from_its_file(
    store: str, tmp_path: Path, down_from_step_2: Down, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full as the spool was to be written: said, and nothing lost."""
    with monkeypatch.context() as patch:
        patch.setattr(spool, "put", full)
        config = RunConfig.make("simclr", {**keys(tmp_path, store), "track.model": False}, preset="digits")
        with pytest.warns(UserWarning, match=r"unsent points could not be kept in .*unsent.json \(.*No space left"):
            result = contray.train(config, quiet=True)
    down_from_step_2.down = False
    (done,) = contray.sync([result.checkpoint])
    assert (done.unsent, done.problem) == (0, "")
    run, _ = of_mlflow(store, {"run_id": result.run_id})
    assert {name: run.data.metrics[name] for name in MEASURED} == dict(result.metrics)


def full(*args: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_broken_answer_leaves_what_is_unsent_in_the_spool(
    store: str, tmp_path: Path, outage: Down, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow answers every question and takes no point."""
    run = track.begin(store, "contray", "r", params={}, tags={})
    folder = Storage(str(tmp_path / "runs" / "r"))
    folder.create()
    config = RunConfig.make("simclr", keys(tmp_path, store), preset="digits")
    folder.write("config.yaml", config.to_yaml().encode())
    folder.write("run.json", json.dumps({"run_id": run.run_id, "finished": True, "status": "FINISHED"}).encode())
    points = [("loss", 1.0, 5, 1), ("bad", math.nan, 6, 2)]
    spool.put(folder, points)

    def refuse(*args: object, **more: object) -> None:
        raise ConnectionError("no")

    real = track.client(store)
    half = SimpleNamespace(get_metric_history=real.get_metric_history, log_batch=refuse)
    from contray.training import syncing

    with monkeypatch.context() as patch:
        patch.setattr(track.metric_log, "client", lambda uri: half)
        (done,) = syncing.sync(["r"], storage=str(tmp_path / "runs"), timeout_s=0.3)
    assert (done.sent, done.unsent) == (0, 2)
    assert str(done) == "r: sent description, status FINISHED; 2 points still unsent"
    kept = spool.get(folder)
    assert kept[0] == points[0]
    assert math.isnan(kept[1][1])
    (done,) = contray.sync(["r"], storage=str(tmp_path / "runs"))
    assert (done.sent, done.unsent) == (2, 0)
    assert spool.SPOOL not in folder.names()
    assert [(point.step, point.timestamp) for point in real.get_metric_history(run.run_id, "bad")] == [(2, 6)]


def test_trials_are_synced_by_the_folder_of_their_sweep(store: str, tmp_path: Path) -> None:
    config = RunConfig.make("simclr", keys(tmp_path, store), preset="digits")
    runs = {}
    for name in ("one", "two"):
        folder = Storage(str(tmp_path / "runs" / "sweep" / name))
        folder.create()
        runs[name] = track.begin(store, "contray", name, params={}, tags={})
        folder.write("config.yaml", config.to_yaml().encode())
        folder.write("run.json", json.dumps({"run_id": runs[name].run_id}).encode())
        spool.put(folder, [("loss", 1.0, 5, 1)])
    (tmp_path / "runs" / "sweep" / "one" / "ended.json").write_text("{}")
    one, two = contray.sync(["sweep"], storage=str(tmp_path / "runs"))
    assert (one.sent, one.status, one.added, one.problem) == (1, "FINISHED", (), "")
    assert (two.sent, two.problem[:25]) == (0, "the trial has not ended; ")
    assert runs["one"].history("loss") == [(1, 1.0)]
    assert runs["two"].history("loss") == []


def test_an_unknown_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "moco-one").mkdir()
    assert main(["sync", "moco-onne", "--scale.storage", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "moco-onne: there is no run of this name" in err
    assert "did you mean moco-one" in err


@pytest.mark.parametrize("there", [True, False])
def test_a_storage_without_runs_is_no_storage_that_lacks_nothing(
    there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "contray_rnus"
    if there:
        place.mkdir()
    assert main(["sync", "--scale.storage", str(place)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"contray: scale.storage: there is no run in {place}; give what it is for the runs, or name their folders\n"
    assert place.exists() == there
