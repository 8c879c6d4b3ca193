"""The peak of memory: each run's own, though a process trains one after the other."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contray import RunConfig
from contray.training.memory import STATUS, Peak, kept
from contray.training.ray_train import ray_session

CPU = torch.device("cpu")


def pages() -> int:
    """That the kernel gave to this process, while it took a large tensor ten times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(20_000_000)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> float:
    """Bytes that this process has in memory."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def keeps() -> None:
    """In a process of its own, for what the tests before left decides where there is room."""
    once = 80_000_000 // resource.getpagesize()
    with kept(CPU):
        pages()  # some places are found too small by what came to lie beside them
        assert pages() < once
        held = resident()
    assert resident() < held - 60e6, "what is free goes back at the end"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's malloc alone is told")
def test_training_keeps_what_its_steps_free() -> None:
    subprocess.run(
        [sys.executable, "-c", "from tests.contray.test_memory import keeps; keeps()"], check=True, cwd=Path(__file__).parents[2]
    )


def test_workers_train_in_the_arena_that_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train's do in a thread, which has another one else."""
    import ray

    class Begun(Exception):
        pass

    def init(**options: object) -> None:
        raise Begun

    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Begun), ray_session(RunConfig.make("simclr", {"scale.address": "local"}, preset="digits")):
        pass
    assert os.environ["MALLOC_ARENA_MAX"] == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of it on Linux alone")
def test_a_run_does_not_inherit_the_peak_of_the_one_before() -> None:
    before = Peak(CPU)
    held = torch.ones(50_000_000)  # 0.2 GB
    small = [torch.ones(500) for _ in range(50_000)]  # 0.1 GB, which malloc keeps once it is free
    large = before.gigabytes
    del held, small
    after = Peak(CPU).gigabytes
    assert large is not None
    assert after is not None
    assert 0.25 < large - after < 0.6
