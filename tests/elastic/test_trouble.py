"""On a real cluster: what workers cannot do, and what a run waits for, stand in the driver's output while it goes on."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contray import track
from tests.elastic.harness import OWN, SMALL, SWEPT, Driver, Nodes

HASTY = """
from contray.training import nodes
nodes.FIRST_WORD = nodes.LOOK = 0.5
import sys
from contray.cli import main
sys.exit(main(sys.argv[1:]))
"""
LATE = """
import time
from contray.training import elastic, ray_train


class Late(elastic.Introduced):
    def __setstate__(self, state):
        time.sleep(12)
        self.__dict__.update(state)


def end(over, board):
    real(over, board)
    print("waits on" if not over.is_set() else "no thread waits", flush=True)


elastic.Introduced, real, ray_train._end = Late, ray_train._end, end
"""
FULL = """
import os

from contray.methods.moco import PAPER, PRESETS, RECIPE, VIEWS, Config, MoCo

real = os.fsync


def fsync(handle):
    if "step-" in os.readlink(f"/proc/self/fd/{handle}"):
        raise OSError(28, "No space left on device")
    real(handle)


class Full(MoCo):
    def after_backward(self, clock):
        os.fsync = fsync
        super().after_backward(clock)
"""

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def one_node() -> Iterator[Nodes]:
    with Nodes(1) as nodes:
        yield nodes


def until(run: Driver, what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while what not in run.told():
        assert run.process is not None
        assert run.process.poll() is None, run.told()
        assert time.monotonic() < deadline, run.told()
        time.sleep(0.1)


def driver(folder: Path, method: str | Path, nodes: Nodes, **more: Any) -> Driver:
    keys = {**SMALL, **OWN["moco"], "train.steps": 60, "scale.workers": (1, 1), "scale.address": nodes.address, **more}
    run = Driver(folder, method, keys, "r")
    run.command[1:3] = ["-c", HASTY]  # in place of -m contray
    return run


def status(run: Driver) -> list[str]:
    talk = track.client(f"sqlite:///{run.folder}/mlflow.db")
    found = talk.search_runs([each.experiment_id for each in talk.search_experiments()])
    return [each.info.status for each in found if each.info.run_name == "r"]


def test_a_run_that_waits_says_for_what_and_is_killed_when_it_is_stopped(
    one_node: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Ray's controller starts late, as on a busy machine: whoever leaves before it has started dies of SIGSEGV now and then."""
    import ray

    monkeypatch.setenv(*SWEPT)

    @ray.remote(num_cpus=1)
    class Other:
        def there(self) -> bool:
            return True

    ray.init(address=one_node.address, log_to_driver=False, logging_level="ERROR")
    try:
        other: Any = Other.remote()
        assert ray.get(other.there.remote())
        run = driver(tmp_path, "moco", one_node)
        run.command[2] = LATE + HASTY
        with run.running():
            until(run, "contray: waiting for 1 worker of {CPU: 1} for ")
            assert status(run) == ["RUNNING"]
            assert run.process is not None
            run.process.send_signal(signal.SIGTERM)
            _until(lambda: status(run) == ["KILLED"], 10)
            assert run.end(90) == 130, run.told()
            assert "no thread waits" in run.told()
        assert status(run) == ["KILLED"]
    finally:
        ray.shutdown()


def test_checkpoints_that_a_worker_cannot_write_are_said_by_the_driver(one_node: Nodes, tmp_path: Path) -> None:
    method = tmp_path / "full.py"
    method.write_text(FULL)
    run = driver(tmp_path, method, one_node, **{"train.checkpoint_seconds": 1e6, "train.checkpoint_steps": 5})
    with run.running():
        assert run.end(180) == 2, run.told()
    told = run.told()
    assert "No space left on device" in told
    steps = re.findall(r"the checkpoint of step (\d+) could not be written to", told)
    assert int(steps[0]) < 60, told  # while it went on
    assert told.splitlines()[-1].endswith(". It went on to step 60; no checkpoint exists"), told
    assert status(run) == ["FAILED"]


def _until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
