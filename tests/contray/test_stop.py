"""A run that is stopped leaves the right status in MLflow, whatever it was doing, and a driver's death is not forgotten."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contray import data, track
from contray.cli import main
from contray.storage.folder import Storage
from contray.training import launch, records, stop
from contray.training.lease import NotSeen
from contray.training.seeds import launch_seeds

from .test_end_to_end import TINY, words


@pytest.fixture
def keys(store: str, tmp_path: Path) -> dict[str, Any]:
    own = {"scale.storage": tmp_path / "runs", "track.uri": store, "track.name": "r", "track.model": "false", "train.steps": 4}
    return {**TINY, **own, "eval.every_epochs": 0, "eval.final": ""}


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    before = [signal.getsignal(number) for number in stop.SIGNALS]
    yield
    assert [signal.getsignal(number) for number in stop.SIGNALS] == before


def runs_of(store: str) -> list[Any]:
    talk = track.client(store)
    return list(talk.search_runs([found.experiment_id for found in talk.search_experiments()]))


def signalled(number: int, then: Callable[..., Any] = lambda *args, **more: None) -> Callable[..., Any]:
    def call(*args: Any, **more: Any) -> Any:
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        return then(*args, **more)

    return call


@pytest.mark.parametrize("number", stop.SIGNALS)
@pytest.mark.parametrize("moment", ["note", "record_config", "_on_ray", "_in_process"])
def test_a_run_that_is_stopped_at_any_moment_is_killed_in_mlflow(
    number: int, moment: str, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, moment, signalled(number))
    if moment == "_on_ray":
        keys["scale.workers"] = (1, 1)
    assert main(words(keys)) == 130
    (run,) = runs_of(keys["track.uri"])
    assert run.info.status == "KILLED"
    assert run.info.end_time
    assert "lease.json" not in os.listdir(keys["scale.storage"] / "r")


@pytest.mark.parametrize("place", ["set_terminated", "log_batch"])
def test_a_run_that_is_stopped_while_it_is_created_is_killed_too(
    place: str, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    if place == "log_batch":
        monkeypatch.setattr(MlflowClient, "log_batch", signalled(signal.SIGTERM))
        assert main(words(keys)) == 130
    else:  # while its end is told: told to its end, and then obeyed
        monkeypatch.setattr(track.TrackedRun, "finish", signalled(signal.SIGTERM, track.TrackedRun.finish))
        assert main(words(keys)) == 130
    (run,) = runs_of(keys["track.uri"])
    assert run.info.status == {"log_batch": "KILLED", "set_terminated": "FINISHED"}[place]


def test_mlflow_is_told_at_once_while_the_run_still_works_on(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray job stop` kills 3 s after its SIGTERM: the status must stand there by then."""
    seen: list[str] = []

    def waits(*args: Any) -> Any:
        asked = [False]
        with stop.interrupts(asked):
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 20
            while not seen and time.monotonic() < deadline:
                seen.extend(run.info.status for run in runs_of(keys["track.uri"]) if run.info.status != "RUNNING")
            assert asked == [True]
        return {"finished": True, "metrics": {}, "step": 4, "artifacts": True}

    monkeypatch.setattr(launch, "_in_process", waits)
    assert main([*words(keys), "--quiet"]) == 0
    assert seen == ["KILLED"]
    (run,) = runs_of(keys["track.uri"])
    assert run.info.status == "FINISHED", "and how it really ended is told when it has"


def test_the_parent_of_seeds_is_stopped_with_them(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from contray import RunConfig

    config = RunConfig.make("simclr", {**keys, "track.model": False, "eval.final": ()}, preset="digits")
    real = launch._in_process
    calls: list[int] = []

    def second_is_stopped(*args: Any) -> Any:
        calls.append(1)
        return signalled(signal.SIGTERM)() if len(calls) == 2 else real(*args)

    monkeypatch.setattr(launch, "_in_process", second_is_stopped)
    with pytest.raises(KeyboardInterrupt):
        launch_seeds(config, 3, quiet=True)
    status = {run.info.run_name: run.info.status for run in runs_of(keys["track.uri"])}
    assert status == {"r": "KILLED", "seed 0": "FINISHED", "seed 1": "KILLED"}


def test_a_signal_before_anything_is_recorded_leaves_nothing(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "announced", signalled(signal.SIGTERM))
    assert main(words(keys)) == 130
    assert runs_of(keys["track.uri"]) == []


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop.stoppable(), stop.interrupts([False]):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_something_replaces_is_put_back() -> None:
    """Ray sets one of its own as a process joins a cluster, which would end a run with exit code 15 and nothing told."""

    def ours(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with stop.unchanged():
            signal.signal(signal.SIGTERM, lambda number, frame: None)
        assert signal.getsignal(signal.SIGTERM) is ours
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with stop.unchanged():
            signal.signal(signal.SIGTERM, ours)
        assert signal.getsignal(signal.SIGTERM) is ours, "what ends the process unasked does not come back"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_told_is_told_once_and_other_threads_are_left_alone() -> None:
    told: list[int] = []
    with stop.stoppable(lambda: told.append(1)), stop.stoppable(lambda: told.append(2)):
        stop.note_stop()
        with pytest.raises(KeyboardInterrupt):
            signalled(signal.SIGTERM)()
    deadline = time.monotonic() + 5
    while sorted(told) != [1, 2]:
        assert time.monotonic() < deadline

    def elsewhere() -> None:
        with stop.stoppable(), stop.telling_the_end():
            pass

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()


# ---------------------------------------------------------------- a folder that is gone


def test_a_folder_that_vanishes_is_no_takeover_and_the_run_has_failed(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    def vanish(config: Any, folder: Storage, *args: Any) -> Any:
        shutil.rmtree(folder.root)
        folder.write("step-000000004.pt", b"")

    monkeypatch.setattr(launch, "_in_process", vanish)
    assert main(words(keys)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("contray: ")]
    assert f"scale.storage: {keys['scale.storage']}/r is not there, as " in line
    assert "taken over" not in line
    (run,) = runs_of(keys["track.uri"])
    assert run.info.status == "FAILED"
    assert "is not there" in run.data.tags[records.FAILURE]


def test_a_lease_that_is_removed_ends_a_run_as_failed(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def removed(config: Any, folder: Storage, *args: Any) -> Any:
        folder.remove("lease.json")
        folder.write("step-000000004.pt", b"")

    monkeypatch.setattr(launch, "_in_process", removed)
    assert main(words(keys)) == 2
    (run,) = runs_of(keys["track.uri"])
    assert run.info.status == "FAILED"


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    from contray.training.lease import Fenced

    with pytest.raises(
        NotSeen, match=r"^scale\.storage: .*/nowhere is not there, as .* sees it: removed, or not on storage that all machines"
    ):
        Fenced(str(tmp_path / "nowhere"), "token")


# ---------------------------------------------------------------- who, where, how


def test_a_run_says_who_started_it_where_and_how(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRAY_USER", "ada")
    monkeypatch.setenv("CONTRAY_COMMIT", "abc123")
    monkeypatch.setenv("CONTRAY_IMAGE", "contray:cpu")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    monkeypatch.setattr(
        "sys.argv",
        ["/usr/bin/contray", "train", "--track.uri", "http://ada:pass@word@mlflow:5000", "--api-token=xyz", "--password", "a b"],
    )
    assert main(words(keys)) == 0
    (run,) = runs_of(keys["track.uri"])
    tags = run.data.tags
    assert (tags["mlflow.user"], tags["contray.job"], tags["mlflow.source.git.commit"]) == ("ada", "raysubmit_1", "abc123")
    assert tags["contray.host"]
    assert tags["contray.image"] == "contray:cpu"
    assert tags["contray.command"] == "contray train --track.uri http://mlflow:5000 '--api-token=***' --password '***'"
    assert tags[records.FOLDER] == str(keys["scale.storage"] / "r")


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"metadata": 3}'])
def test_without_a_job_there_is_no_job(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", text)
    assert records._job() == ""
