"""The peak of memory: each run's own, though a process trains one after the other."""

from __future__ import annotations

import sys

import pytest
import torch

from contray.training.memory import Peak

CPU = torch.device("cpu")


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
