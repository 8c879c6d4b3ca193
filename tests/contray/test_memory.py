"""The peak of memory: each run's own, though a process trains one after the other."""

from __future__ import annotations

import ctypes
import resource
import sys

import pytest
import torch

from contray.training.memory import Peak, kept

CPU = torch.device("cpu")


def pages() -> int:
    """That the kernel gave to this process, while it took a large tensor ten times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(20_000_000)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's malloc alone is told")
def test_training_keeps_what_its_steps_free() -> None:
    once = 80_000_000 // resource.getpagesize()
    with kept(CPU):
        pages()  # some places are found too small by what came to lie beside them
        assert pages() < once
    assert pages() > 9 * once
    with kept(torch.device("cuda")):  # where tensors are the GPU's
        assert pages() > 9 * once


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
