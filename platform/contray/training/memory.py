"""How much memory training takes at most (of the GPU where the model is on one, else of the process); and keeping glibc from returning what steps on a CPU free."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

STATUS, MARK = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # proc(5)
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # mallopt(3)
_lock, _keeping = threading.Lock(), 0  # runs of this process that train


@contextlib.contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Within it malloc keeps what is freed, where training on a CPU frees in each step what the next one takes again.

    glibc maps every tensor of more than 32 MB anew and gives it back when it is freed, and the kernel fills its pages with zeros each time: a sixth
    of a step's time (ResNet-18, fp32, one AMD core). At its end all that is free goes back to the system.
    """
    global _keeping
    libc = ctypes.CDLL(None) if device.type == "cpu" and sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    with _lock:
        _keeping += 1
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        with _lock:
            _keeping -= 1
            if not _keeping:  # the last of runs in several threads
                _give_back(libc)


def _give_back(libc: ctypes.CDLL) -> None:
    libc.mallopt(MMAP_MAX, 65536)  # glibc's own
    libc.mallopt(MMAP_THRESHOLD, 32 << 20)  # to which, and twice that, it raises them by itself when large blocks are freed
    libc.mallopt(TRIM_THRESHOLD, 64 << 20)
    libc.malloc_trim(0)


class Peak:
    """The most memory that this process held since `Peak(device)`.

    A process that trains one run after the other inherits nothing: what is free goes back to the system first (malloc keeps it otherwise), and
    the kernel's mark starts anew at what is held now: libraries, and data that are kept.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._marked = device, device.type == "cuda"
        gc.collect()
        if self._marked:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            libc = ctypes.CDLL(None)
            if hasattr(libc, "malloc_trim"):  # glibc's
                libc.malloc_trim(0)
            with contextlib.suppress(OSError):  # a container may forbid it
                MARK.write_text("5")
                self._marked = True

    @property
    def gigabytes(self) -> float | None:
        """10^9 bytes: what torch allocated on the GPU, else what the process had in memory; None where the system does not tell."""
        if not self._marked:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
