"""What must be known reaches the driver's output and the run's tags, from any worker and any thread, and so does its end."""

from __future__ import annotations

import logging
import re
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contray import track
from contray.errors import UserError
from contray.storage.folder import Storage
from contray.track import metric_log
from contray.training import progress
from contray.training.checkpoints import Checkpoints
from contray.training.forwarding import forwarding
from contray.training.progress import TrainingBar, lasting
from contray.training.worker import TROUBLE, Asked, Recorder


def until(holds: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shown(bar: TrainingBar) -> Callable[[dict[str, Any]], Asked]:
    return lambda message: bar.show(message) or Asked()


# ---------------------------------------------------------------- a checkpoint that cannot be written


@pytest.mark.parametrize("quiet", [False, True])
def test_a_checkpoint_that_cannot_be_written_is_said_at_once_and_kept_in_the_tags(
    quiet: bool, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = track.begin(store, "contray", "r", params={}, tags={})
    recorder = Recorder(run, 100, shown(TrainingBar("r", quiet)))
    writer = threading.Thread(
        target=recorder.trouble, args=("checkpoint", "the checkpoint of step 4 could not be written: disk full")
    )
    writer.start()
    writer.join()
    line = "the checkpoint of step 4 could not be written: disk full (there is no durable checkpoint yet)"
    assert capsys.readouterr().out == f"contray: {line}\n"
    until(lambda: line in run.results()[1].get(TROUBLE, ""))
    assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d, the checkpoint", run.results()[1][TROUBLE])

    recorder.trouble("checkpoint", "the checkpoint of step 4 could not be written: disk full")
    assert capsys.readouterr().out == "", "the same words are said once"

    recorder.durable(6)
    assert re.fullmatch(rf"contray: over after \d s: {re.escape(line)}\n", capsys.readouterr().out)
    until(lambda: run.results()[1][TROUBLE] == "")

    recorder._safe = (6, time.monotonic() - 200)
    recorder.trouble("checkpoint", "the checkpoint of step 8 could not be written: no")
    assert "(the last durable checkpoint is of step 6, 3 min 20 s ago)" in capsys.readouterr().out
    assert recorder.metrics is not None
    assert recorder.metrics.close(10) == 0
    assert (
        "step 8 could not be written: no (the last durable checkpoint is of step 6, 3 min 20 s ago)" in run.results()[1][TROUBLE]
    )


def test_several_troubles_stand_in_the_tag_until_each_is_over(store: str) -> None:
    run = track.begin(store, "contray", "r", params={}, tags={})
    recorder = Recorder(run, 100, lambda message: Asked())
    recorder.trouble("checkpoint", "no checkpoint")
    recorder.trouble("points", "lost points")
    until(lambda: "lost points" in run.results()[1].get(TROUBLE, ""))
    assert "no checkpoint" in run.results()[1][TROUBLE]
    recorder.trouble("checkpoint", "")
    until(lambda: run.results()[1][TROUBLE] == "lost points")


def test_a_run_that_goes_on_clears_what_an_earlier_life_left_in_the_tag(store: str) -> None:
    run = track.begin(store, "contray", "r", params={}, tags={TROUBLE: "the disk is full"})
    Recorder(run, 100, lambda message: Asked()).restore({"step": 4, "points": []})
    until(lambda: run.results()[1][TROUBLE] == "")


def test_trouble_is_told_although_the_lease_is_lost() -> None:
    def lost(message: dict[str, Any]) -> Asked:
        raise UserError("taken over")

    recorder = Recorder(None, 100, lost)
    recorder.trouble("checkpoint", "no")  # in the writing thread: what ends the run is raised in the training thread
    recorder.durable(3)


# ---------------------------------------------------------------- MLflow away and back


def test_an_outage_of_mlflow_is_said_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    down = [True]
    sent: list[str] = []

    def answer(*args: object, **more: Any) -> list[Any]:
        if down[0]:
            raise ConnectionError("the server went away")
        sent.extend(tag.value for tag in more.get("tags", ()))
        return []

    monkeypatch.setattr(metric_log, "FIRST_PAUSE", 0.01)
    fake = SimpleNamespace(get_metric_history=answer, log_batch=answer)
    monkeypatch.setattr(metric_log, "client", lambda uri: fake)
    said: list[str] = []
    bar = TrainingBar("r", quiet=True)
    monkeypatch.setattr(bar, "_tell", said.append)
    recorder = Recorder(track.TrackedRun("http://nowhere", "1", "r"), 10, shown(bar))
    recorder.log(1, {"loss": 1.0})
    recorder.durable(1)
    until(lambda: said)
    assert re.fullmatch(
        r"MLflow does not answer since \d\d:\d\d:\d\d \(the server went away\); training goes on, points are kept and sent later",
        said[0],
    )
    recorder.trouble("checkpoint", "no")
    recorder.trouble("checkpoint", "never")
    time.sleep(0.1)
    assert len(said) == 3, "one line for the outage"
    down[0] = False
    until(lambda: any(words.startswith("over after") and "MLflow does not answer" in words for words in said))
    assert recorder.metrics is not None
    assert recorder.metrics.close(5) == 0
    assert len(sent) == 1, "of a tag the last value alone"
    assert "never" in sent[0]


def test_a_failed_write_says_what_is_safe_once_and_is_no_warning_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(storage: Storage, name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Storage, "write", full)
    recorder = Recorder(None, 100, shown(TrainingBar("r", quiet=True)))
    listener = Checkpoints(Storage(str(tmp_path)), trouble=recorder.trouble, warns=not recorder.speaks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it would end the writing thread
        listener.save(4, {"step": 4})
        listener.join()
    why = "[Errno 28] No space left on device"
    assert (
        capsys.readouterr().out
        == f"contray: the checkpoint of step 4 could not be written to {tmp_path}: {why}; there is no checkpoint yet\n"
    )


# ---------------------------------------------------------------- what workers say


def test_what_a_worker_prints_warns_or_logs_is_heard_from_every_thread(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def work() -> None:
        print("contray: step 3 gave no finite gradients\nepoch 2\ncontray: cut", end=" ")
        print("in two", flush=True)
        logging.getLogger("contray.training.lease").warning("the lease %s", "waits")
        logging.getLogger("contray").info("nothing of note")
        logging.getLogger("torch").warning("not ours")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *args, **more: None
        with forwarding(said.append):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            warnings.warn_explicit("the checkpoint\n  could not be written", UserWarning, progress.__file__, 1)
            warnings.warn_explicit("not ours", UserWarning, "/usr/lib/python3/torch.py", 1)
    print("contray: nobody listens any more")
    assert said == [
        "step 3 gave no finite gradients",
        "cut in two",
        "the lease waits",
        "the checkpoint could not be written",
    ]
    assert "epoch 2" in capsys.readouterr().out, "and it stands where it stood"


def test_the_bar_says_what_workers_said_and_what_is_waited_for_although_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TrainingBar("r", quiet=True)
    for message in (
        {"said": ["one", "two"], "waiting": ""},
        {"said": [], "waiting": "waiting for 1 worker"},
        {"said": [], "waiting": "waiting for 1 worker"},
        {"said": ["one"], "waiting": ""},
    ):
        bar.show(message)
    assert capsys.readouterr().out.splitlines() == [
        "contray: one",
        "contray: two",
        "contray: waiting for 1 worker",
        "contray: one",
    ]


# ---------------------------------------------------------------- a job's log


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    bar = TrainingBar("r")
    for step in range(1, 101):
        now[0] += 1.0
        bar.show({"step": step, "total": 1000, "loss": 2.0, "images_per_second": 640.0})
        if step == 50:
            bar.show({"durable": 50})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5, "soon how long it will take, then every 30 s"
    assert lines[1] == "r: step 7/1000, loss 2.000, 640 images/s, 16 min 33 s to go"
    assert lines[-1] == "r: step 100/1000, loss 2.000, 640 images/s, 15 min 00 s to go, checkpoint of step 50, 50 s ago"


def test_mlflow_says_nothing_of_its_own_about_a_run(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    track.begin(store, "contray", "r", params={}, tags={}).finish("FINISHED")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_are_told_as_people_do(seconds: float, words: str) -> None:
    assert lasting(seconds) == words


@pytest.mark.parametrize(("promised", "told"), [(60.0, True), (900.0, False), (0.0, False)])
def test_a_run_slower_than_planned_says_so_once(
    promised: float, told: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    bar = TrainingBar("r")
    bar.promised = promised
    for step in range(5):  # ten seconds a step, of 50: 500 s in all
        bar.show({"step": step, "total": 50})
        now[0] += 10.0
    said = [line for line in capsys.readouterr().out.splitlines() if "slower than planned" in line]
    assert len(said) == told
    if told:
        assert "about 8 min 20 s in place of 1 min 00 s" in said[0]
