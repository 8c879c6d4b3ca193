"""One driver at a time for a run: who may take a lease and when, and what the loser may still do."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from contray import track
from contray.cli import main
from contray.errors import UserError
from contray.storage.folder import Storage
from contray.training import lease
from contray.training.lease import LEASE, Fenced, Lease, LeaseLost, NotSeen, held
from contray.training.progress import TrainingBar

from .test_end_to_end import TINY, words

ELSEWHERE = {"token": "theirs", "count": 1, "host": "node7", "pid": 1, "since": "2026-01-01 00:00:00", "machine": "another"}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SILENCE", 0.5), ("RENEW", 0.1), ("POLL", 0.05)):
        monkeypatch.setattr(lease, name, seconds)


@pytest.fixture(params=["", "file://"], ids=["path", "address"])  # an address is treated as an object store: nothing excludes
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    storage = Storage(f"{request.param}{tmp_path}/run")
    storage.create()
    return storage


def write(folder: Storage, **changes: Any) -> None:
    folder.write(LEASE, json.dumps({**ELSEWHERE, **changes}).encode())


def owner(folder: Storage) -> dict[str, Any]:
    return lease._read(folder)


def ended_process() -> dict[str, Any]:
    """A process of this machine that is gone."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        known = lease._process(process.pid)
        process.communicate(b"\n")
    return {"pid": process.pid, **known}


@pytest.mark.parametrize(
    ("place", "shared"),
    [("/shared/runs/r", True), ("/shared", True), ("/sharedness", False), ("/shared/scratch/r", False), ("/my files/r", True)],
)
def test_a_lock_of_another_machine_s_file_system_excludes_nobody(place: str, shared: bool, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "overlay / overlay rw 0 0\nhost:/x /shared nfs4 rw 0 0\n/dev/sdb /shared/scratch ext4 rw 0 0\nhost:/y /my\\040files nfs rw 0 0\n"
    )
    assert lease._on_a_network(place, str(mounts)) == shared
    assert not lease._on_a_network(place, str(tmp_path / "none"))


def test_it_is_renewed_and_removed(folder: Storage) -> None:
    with held(folder) as mine:
        assert owner(folder)["token"] == mine.token
        first = owner(folder)["count"]
        _until(lambda: owner(folder)["count"] > first + 1)
        mine.check()
    assert folder.names() == []


def test_a_second_driver_in_this_process_is_refused_at_once(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SILENCE", 30)
    with held(folder):
        start = time.monotonic()
        with pytest.raises(
            UserError, match=rf"^track.name: run is being trained by process {os.getpid()} on .*, since 20.*--track"
        ):
            held(folder).__enter__()
        assert time.monotonic() - start < lease.SILENCE
    with held(folder):
        pass


def test_a_silent_owner_elsewhere_is_waited_for_and_then_replaced(
    folder: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the clock jumps meanwhile."""
    real = time.time
    jumps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 3600)
    write(folder)
    start = time.monotonic()
    with held(folder) as mine:
        assert 0.5 <= time.monotonic() - start < 5
        assert owner(folder)["token"] == mine.token
    assert "was held by node7, process 1; it is free after 0.5 s without a sign of life" in capsys.readouterr().out


def test_an_owner_elsewhere_that_gives_a_sign_is_left_alone(folder: Storage) -> None:
    write(folder)
    sign = threading.Timer(0.2, lambda: write(folder, count=2))
    sign.start()
    with pytest.raises(UserError, match="is being trained by process 1 on node7, since 2026"):
        held(folder).__enter__()
    sign.join()
    assert owner(folder)["count"] == 2


def test_an_owner_that_ends_while_it_is_watched_makes_room(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SILENCE", 30)
    write(folder)
    threading.Timer(0.1, lambda: folder.remove(LEASE)).start()
    start = time.monotonic()
    with held(folder):
        assert time.monotonic() - start < 20


@pytest.mark.parametrize("reused", [False, True])
def test_a_dead_process_of_this_machine_is_not_waited_for(folder: Storage, reused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SILENCE", 30)
    gone = {**lease._process(os.getpid()), "pid": os.getpid(), "started": "1"} if reused else ended_process()
    write(folder, **gone)
    start = time.monotonic()
    with held(folder):
        assert time.monotonic() - start < 20


def test_a_suspended_process_of_this_machine_is_watched(folder: Storage) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        write(folder, pid=process.pid, **lease._process(process.pid))
        start = time.monotonic()
        with held(folder):
            assert time.monotonic() - start >= 0.5
        process.kill()


def test_who_lost_it_writes_nothing_and_leaves_the_new_owner_alone(folder: Storage) -> None:
    with held(folder) as mine:
        writable = mine.fenced()
        writable.write("a", b"1")
        write(folder)
        with pytest.raises(LeaseLost):
            writable.write("b", b"2")
        with pytest.raises(LeaseLost):
            Fenced(folder.address, mine.token)
        _until(lambda: mine._lost is not None)
        with pytest.raises(LeaseLost, match="taken over by process 1 on node7"):
            mine.check()
    assert owner(folder)["token"] == "theirs"
    assert folder.names() == ["a", LEASE]


def test_a_folder_that_is_removed_is_noticed(folder: Storage) -> None:
    with held(folder) as mine:
        folder.clear()
        _until(lambda: mine._lost is not None)
        with pytest.raises(NotSeen if folder.local else LeaseLost):  # an object store has no folders, only a lease that is gone
            mine.check()


def test_an_outage_of_the_storage_ends_nothing(
    folder: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with held(folder) as mine:
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "write", full)
            _until(lambda: "could not be renewed" in caplog.text)
            time.sleep(0.3)
            mine.check()
        count = owner(folder)["count"]
        _until(lambda: owner(folder)["count"] > count)
    assert caplog.text.count("could not be renewed") == 1


@pytest.mark.parametrize("content", [b"", b"no json", b"[1]", b'{"token": 3, "pid": "x"}'])
def test_a_lease_that_nobody_wrote_is_free_after_the_silence(folder: Storage, content: bytes) -> None:
    folder.write(LEASE, content)
    with held(folder) as mine:
        assert owner(folder)["token"] == mine.token


@pytest.mark.parametrize("seen", [{}, ELSEWHERE], ids=["free", "silent"])
def test_of_many_takers_one_wins(folder: Storage, seen: dict[str, Any]) -> None:
    if seen:
        write(folder)
    barrier, leases, refused = threading.Barrier(6), [], []

    def take() -> None:
        mine = Lease(folder)
        barrier.wait()
        try:
            mine.take(seen)
            leases.append(mine)
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leases) + len(refused) == 6
    assert len(leases) == 1 or not folder.local
    _until(lambda: sum(mine._lost is None for mine in leases) == 1)  # without exclusion two may believe it, but not for long
    for mine in leases:
        mine.release()


# ---------------------------------------------------------------- as the user meets it


@pytest.fixture
def keys(store: str, tmp_path: Path) -> dict[str, Any]:
    own = {"scale.storage": tmp_path / "runs", "track.uri": store, "track.name": "r", "track.model": "false"}
    return {**TINY, **own, "eval.every_epochs": 0, "eval.final": "", "train.steps": 2000}


def test_a_run_of_a_name_that_trains_is_refused_before_anything_is_begun(
    keys: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Storage(str(tmp_path / "runs" / "r"))
    folder.create()
    with held(folder):
        for command in (words(keys), ["sync", "r", "--scale.storage", str(tmp_path / "runs")]):
            if command[0] == "sync":
                folder.write("run.json", b'{"run_id": "x", "finished": false}')
            assert main(command) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert err.count("\n") == 1
            assert err.startswith(f"contray: track.name: r is being trained by process {os.getpid()} on ")
            assert "wait for its end, or give this run another --track.name" in err
    talk = track.client(keys["track.uri"])
    assert not talk.search_runs([found.experiment_id for found in talk.search_experiments()])


def test_two_processes_of_one_name_and_a_takeover_while_one_is_suspended(
    keys: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "r"
    command = words(keys)
    with subprocess.Popen(
        [sys.executable, "-m", "contray", *command], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as first:
        try:
            _until(lambda: bool(list(folder.glob("step-*[4-9].pt"))) or first.poll() is not None, 120)
            assert first.poll() is None
            assert main(command) == 2
            assert f"r is being trained by process {first.pid} on" in capsys.readouterr().err

            _suspend(first, tmp_path / "mlflow.db")
            monkeypatch.setattr(TrainingBar, "show", _terminate_after_some_steps())
            assert main(command) == 130
            assert "going on with r" in capsys.readouterr().out
            left = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
            assert LEASE not in left

            first.send_signal(signal.SIGCONT)
            _, err = first.communicate(timeout=60)
            assert first.returncode == 2
        finally:
            first.kill()
    (line,) = [line for line in err.splitlines() if line.startswith("contray: ")]
    assert "has no lease of this run any more" in line, "it may have been removed as well as taken over"
    assert "writes nothing more" in line
    assert "Traceback" not in err
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == left
    talk = track.client(keys["track.uri"])
    (run,) = talk.search_runs([found.experiment_id for found in talk.search_experiments()])
    assert run.info.status == "KILLED", "as the second left it, not FAILED"
    steps = [point.step for point in talk.get_metric_history(run.info.run_id, "loss")]
    assert len(steps) == len(set(steps))


def _suspend(process: subprocess.Popen[str], store: Path) -> None:
    """Stop a process while it does not write to the store, which it would lock for all others."""
    while True:
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        with closing(sqlite3.connect(store, timeout=0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                process.send_signal(signal.SIGCONT)
        time.sleep(0.05)


def _terminate_after_some_steps() -> Callable[[TrainingBar, dict[str, Any]], None]:
    seen: list[int] = []

    def show(bar: TrainingBar, message: dict[str, Any]) -> None:
        if message.get("loss"):
            seen.append(message["step"])
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    return show


def _until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
