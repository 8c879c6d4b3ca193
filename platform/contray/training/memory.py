"""The most memory that training took: of the GPU where the model is on one, else of the process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

import torch

STATUS, MARK = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # proc(5)


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
