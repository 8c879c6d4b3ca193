"""What the processor at hand is good at, and how much of it there is. Nothing else asks the hardware what a run should compute."""

from __future__ import annotations

import os

import torch

from ..config import RunConfig
from ..errors import UserError
from ..processors import cores

OVERRIDE = "CONTRAY_BF16"  # yes or no: what to take the hardware for
MOST = 16  # loader processes that are started unasked: each holds three batches in shared memory


def quick_bf16(kind: str) -> tuple[bool, str]:
    """Whether a device of this kind ("cpu", "cuda") multiplies in bf16 by units of its own, and which, in words.

    Without them bf16 is emulated: right, and slower than fp32.
    """
    given = os.environ.get(OVERRIDE, "")
    if given:
        if given not in ("yes", "no"):
            raise UserError(f"{OVERRIDE}: got {given!r}, must be yes or no")
        return given == "yes", f"{OVERRIDE} is {given}"
    if kind == "cuda":
        found = torch.cuda.is_bf16_supported(including_emulation=False)
        return found, f"this GPU has {'' if found else 'no '}bf16"
    if torch.cpu._is_amx_tile_supported():
        return True, "this processor has AMX"
    if torch.cpu._is_avx512_bf16_supported():
        return True, "this processor has AVX512-BF16"
    return False, "this processor has neither AMX nor AVX512-BF16"


def loaders(config: RunConfig, held: bool = False) -> int:
    """How many processes prepare this worker's batches: data.workers, whose `auto` is decided where it runs, by the cores that it has.

    held: whether the images are held decoded.
    """
    asked, kind = config.data.workers, "cuda" if config.train.device != "cpu" and torch.cuda.is_available() else "cpu"
    return spared(min(cores(), torch.get_num_threads()), held, kind)[0] if asked == "auto" else asked


def spared(count: int, held: bool, kind: str) -> tuple[int, str]:
    """(the loader processes that `count` cores have room for beside the training process, why); kind: of the device that trains."""
    if count == 1:
        return (1, "one core, beside a GPU") if kind == "cuda" else (0, "one core")
    if held and kind == "cpu":  # a step's threads wait for each one whose core a loader has
        return 1, "the images are in memory, and the cores train"
    return min(count - 1, MOST), f"{count} cores less one{f', {MOST} at most' if count > MOST + 1 else ''}"
