"""What surrounds Ray Train's elasticity, without a cluster: patience with failures, the watch over nodes, steps that are left out, the audit."""

from __future__ import annotations

import json
import pickle
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from contray import RunConfig, data
from contray.errors import ConfigError
from contray.methods.simclr import SimCLR
from contray.storage.folder import Storage
from contray.training import elastic, loop, ray_train, saving
from contray.training.audit import Audit, attempts, history
from contray.training.elastic import FAILURES, NodeWatch, NoProgress, Patience
from contray.training.loop import Listener, NonFiniteLoss, train
from contray.training.reasons import one_line
from contray.training.worker import Asked, Recorder

TINY = {
    "data.size": 16, "data.renderings": 1, "data.workers": 0, "views.view.size": 16, "backbone.width": 4, "method.projector_hidden": 16,
    "method.projector_dim": 8, "train.batch_size": 64, "train.precision": "fp64", "train.steps": 12, "train.log_every": 1,
    "train.checkpoint_steps": 2, "train.checkpoint_seconds": 1e6, "eval.every_epochs": 0, "scale.workers": (0, 0),
}  # fmt: skip


def config(**keys: Any) -> RunConfig:
    return RunConfig.make("simclr", {**TINY, **{key.replace("__", "."): value for key, value in keys.items()}}, preset="digits")


class Losses(Listener):
    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def log(self, step: int, values: Any) -> None:
        self.seen.append((step, values["loss"]))


# ---------------------------------------------------------------- patience


def test_failures_end_a_run_only_in_a_row_without_a_new_checkpoint(tmp_path: Path) -> None:
    fails = {1: RuntimeError("the card fell off")}
    for step in (10, 10, 20, 20):  # the second at 20 is the second in a row, as the second at 10 was
        (tmp_path / f"step-{step:09d}.pt").touch()
        Patience(str(tmp_path), 2).after_exception(None, fails)  # anew each time: a controller that starts again counts on
    with pytest.raises(
        NoProgress, match=r"failed 3 times in a row after step 20 .*scale.max_failures 2.*worker 1: the card fell off"
    ):
        Patience(str(tmp_path), 2).after_exception(None, fails)
    assert json.loads((tmp_path / FAILURES).read_text())["count"] == 3
    elastic.forget_failures(Storage(str(tmp_path)))
    Patience(str(tmp_path), 2).after_exception(None, fails)


def test_no_failure_is_too_many_with_minus_one(tmp_path: Path) -> None:
    for _ in range(20):
        Patience(str(tmp_path), -1).after_exception(None, {0: RuntimeError("again")})


def test_a_node_that_gave_notice_is_nobodys_failure(tmp_path: Path) -> None:
    gone = RuntimeError("died")
    gone.preempted = True  # type: ignore[attr-defined]
    Patience(str(tmp_path), 0).after_exception(None, {0: gone})
    assert not (tmp_path / FAILURES).exists()


@pytest.mark.parametrize("name", ["lease.LeaseLost", "lease.NotSeen", "loop.Unsaved"])
def test_what_no_new_worker_mends_ends_a_run_at_once_in_its_own_words(name: str, tmp_path: Path) -> None:
    with pytest.raises(NoProgress, match=r"^the words$"):
        Patience(str(tmp_path), -1).after_exception(None, {0: RuntimeError(f"Traceback:\ncontray.training.{name}: the words")})


def test_a_worker_that_its_node_ended_for_want_of_memory_says_so() -> None:
    text = "Task was killed due to the node running low on memory.\nRefer to the documentation"
    assert one_line(RuntimeError(text)) == "its process was ended because its node ran out of memory"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"step": 1}', b'{"step": "1", "count": 2}', b"\xff"])
def test_a_damaged_count_of_failures_begins_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FAILURES).write_bytes(content)
    Patience(str(tmp_path), 2).after_exception(None, {0: RuntimeError("again")})
    assert json.loads((tmp_path / FAILURES).read_text())["count"] == 1


def test_failures_and_non_finite_losses_travel_between_processes() -> None:
    assert str(pickle.loads(pickle.dumps(NoProgress("failed 3 times")))) == "failed 3 times"
    again = pickle.loads(pickle.dumps(NonFiniteLoss(7, "no number")))
    assert (again.step, str(again)) == (7, "step 7: no number")


def test_a_workers_end_is_one_line() -> None:
    text = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: X\nworker died: SIGKILL, unexpected system error"
    )
    assert one_line(RuntimeError(text)).startswith("its process died")
    assert one_line(ValueError("first\nsecond: the reason\n")) == "second: the reason"


# ---------------------------------------------------------------- the watch over nodes


@pytest.fixture
def sky(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Nodes that come, go and drain, a clock, and how often Ray was asked to look."""
    import ray

    sky: dict[str, Any] = {"alive": {"a"}, "draining": frozenset(), "now": 1000.0, "asked": 0}
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": name, "Alive": True} for name in sky["alive"]])
    monkeypatch.setattr(elastic, "_draining", lambda: sky["draining"])
    monkeypatch.setattr(elastic, "_look_again", lambda: sky.__setitem__("asked", sky["asked"] + 1))
    monkeypatch.setattr(elastic, "time", SimpleNamespace(monotonic=lambda: sky["now"]))
    return sky


def after(watch: NodeWatch, sky: dict[str, Any], seconds: float) -> bool:
    sky["now"] += seconds
    return watch.look()


def test_checkpoints_hurry_before_ray_is_told_of_a_new_node(sky: dict[str, Any]) -> None:
    watch = NodeWatch()
    assert not watch.look()
    sky["alive"] = {"a", "b"}
    assert after(watch, sky, 1.5)
    assert sky["asked"] == 0, "a checkpoint first"
    assert after(watch, sky, elastic.NOTICE_SECONDS + 0.5)
    assert sky["asked"] == 1
    assert not after(watch, sky, elastic.HURRY_SECONDS)


def test_ray_is_told_of_a_dead_node_at_once(sky: dict[str, Any]) -> None:
    sky["alive"] = {"a", "b"}
    watch = NodeWatch()
    assert not watch.look()
    sky["alive"] = {"a"}
    assert after(watch, sky, 1.5)
    assert sky["asked"] == 1


def test_checkpoints_hurry_as_long_as_a_node_drains(sky: dict[str, Any]) -> None:
    watch = NodeWatch()
    assert not watch.look()
    sky["draining"] = frozenset({"a"})
    assert after(watch, sky, 2)
    assert after(watch, sky, 100)
    sky["draining"] = frozenset({"long gone"})
    assert not after(watch, sky, 2)


def test_a_run_hears_what_is_asked_between_logged_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Asked()]
    recorder = Recorder(None, 10, lambda message: asked[0])
    assert not recorder.hurry()
    asked[0] = Asked(save=True)
    assert not recorder.hurry(), "it asks twice a second at most"
    recorder._heard -= 1
    assert recorder.hurry()
    assert not recorder.stop()


def test_a_run_in_a_hurry_writes_checkpoints_by_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "HURRY_SECONDS", 0.0)
    durable: list[int] = []

    class Hurried(Listener):
        def hurry(self) -> bool:
            return True

        def durable(self, step: int) -> None:
            durable.append(step)

    calm = config(train__checkpoint_steps=0)
    for name, listener in (("calm", None), ("hurried", Hurried())):
        (tmp_path / name).mkdir()
        train(calm, data.open_source(calm.data), Storage(str(tmp_path / name)), listener)
    assert len(list((tmp_path / "calm").glob("step-*"))) == 1
    assert len(durable) > 2


# ---------------------------------------------------------------- steps without finite gradients


@pytest.fixture
def bad_steps(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Steps (counted from 1) whose loss is no number."""
    bad: set[int] = set()
    plain = SimCLR.loss

    def loss(self: SimCLR, reps: Any, batch: Any, clock: Any) -> Any:
        out = plain(self, reps, batch, clock)
        return {**out, "loss": out["loss"] * (torch.nan if clock.step + 1 in bad else 1)}

    monkeypatch.setattr(SimCLR, "loss", loss)
    return bad


def test_a_bad_step_is_left_out_and_the_run_goes_on_from_the_checkpoint_before(
    tmp_path: Path, bad_steps: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    bad_steps.add(6)
    skip = config(train__on_nan="skip")
    listener = Losses()
    outcome = train(skip, data.open_source(skip.data), Storage(str(tmp_path)), listener)
    assert outcome.finished
    assert "step 6 gave no finite gradients" in capsys.readouterr().out
    assert [step for step, _ in listener.seen] == [1, 2, 3, 4, 5, 5, 7, 8, 9, 10, 11, 12]  # back to 4, and 6 left out
    assert all(value.isfinite().all() for value in outcome.method.state_dict().values() if value.is_floating_point())


def test_the_same_steps_are_left_out_wherever_the_run_goes_on(tmp_path: Path, bad_steps: set[int]) -> None:
    bad_steps.add(6)
    short, whole = config(train__on_nan="skip", train__keep=9), Storage(str(tmp_path))
    ended = train(short, data.open_source(short.data), whole).method.state_dict()
    bad_steps.clear()  # the batch is not met again: what it did is on record
    for path in tmp_path.glob("step-*"):
        if int(path.stem.removeprefix("step-")) > 8:
            path.unlink()
    resumed = train(short, data.open_source(short.data), whole).method.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in ended.items())


def test_without_leave_a_bad_step_ends_the_run(tmp_path: Path, bad_steps: set[int]) -> None:
    bad_steps.add(6)
    with pytest.raises(NonFiniteLoss, match=r"step 6: .*train.on_nan skip"):
        train(config(), data.open_source(config().data), Storage(str(tmp_path)))


def test_too_many_bad_steps_end_the_run(tmp_path: Path, bad_steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MOST_SKIPPED", 2)
    bad_steps |= {3, 4, 5}
    skip = config(train__on_nan="skip")
    with pytest.raises(NonFiniteLoss, match=r"step 5: .*after 2 steps were left out"):
        train(skip, data.open_source(skip.data), Storage(str(tmp_path)))


# ---------------------------------------------------------------- the audit


def test_the_audit_tells_every_steps_samples_and_loss(tmp_path: Path) -> None:
    audited = config(train__audit=True)
    listener = Losses()
    train(audited, data.open_source(audited.data), Storage(str(tmp_path)), listener)
    (life,) = attempts(Storage(str(tmp_path)))
    assert life.losses == dict(listener.seen)
    assert (life.begin, life.world) == (0, 1)
    assert all(len(set(ids)) == 64 for ids in life.ids.values())


def test_a_history_is_put_together_from_lives(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for begin, steps in ((0, range(1, 8)), (4, range(5, 7)), (6, range(7, 11))):
        audit = Audit(storage, begin, 1, 0, torch.device("cpu"))
        for step in steps:
            audit.step(step, [begin, step], float(begin))
        audit.close()
    with next(iter(sorted((tmp_path / "audit").glob("*")))).open("a") as file:
        file.write('{"step": 8, "ids": [1')  # the death tore this line off
    past = history(attempts(storage))
    assert past.losses == {**dict.fromkeys(range(1, 5), 0.0), 5: 4.0, 6: 4.0, **dict.fromkeys(range(7, 11), 6.0)}
    assert past.ids[5] == [4, 5]
    assert (past.again, past.skipped, past.worlds) == (3, [], [1, 1, 1])


def test_an_audit_needs_every_step_and_a_place_to_append_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.audit: .*train.log_every must be 1 \(got 10\)"):
        config(train__audit=True, train__log_every=10)
    with pytest.raises(ConfigError, match=r"train\.audit: appends"):
        Audit(Storage(f"file://{tmp_path}"), 0, 1, 0, torch.device("cpu"))


@pytest.mark.parametrize("answers", [True, False])
def test_who_leaves_waits_for_a_controller_and_not_for_a_cluster_that_is_gone(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`timeout` and batch systems end Ray's processes with the driver's: nobody will answer it."""

    def get(ref: object, timeout: float) -> list[object]:
        if not answers:
            raise RuntimeError("no GCS")
        return []

    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr(ray_train, "END_SECONDS", 2.0 if answers else 60.0)
    monkeypatch.setattr(ray_train, "SILENT_SECONDS", 30.0 if answers else 0.5)
    board = SimpleNamespace(introduced=SimpleNamespace(remote=lambda: None))
    began = time.monotonic()
    ray_train._end(threading.Event(), board)
    took = time.monotonic() - began
    assert took >= 2.0 if answers else 0.5 <= took < 30.0
