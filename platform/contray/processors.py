"""How many CPUs this process may use. Nothing else counts them."""

from __future__ import annotations

import os
from pathlib import Path


def processors() -> int:
    """CPUs that this process and what it starts may use: by its affinity and its control group, as in a container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = ([*words_in("/sys/fs/cgroup/cpu.max"), "max", "1"])[:2]
    if quota != "max":
        count = min(count, round(float(quota) / float(period)))
    return max(count, 1)


def cores() -> int:
    """CPUs that this process may compute on: those of `processors`, and no more than OMP_NUM_THREADS, which is how one limits threads."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(min(processors(), int(asked)), 1) if asked.isdigit() else processors()


def words_in(file: str) -> list[str]:
    """The words of a file of the system's; none where there is no such file."""
    try:
        return Path(file).read_text().split()
    except OSError:
        return []
