"""What the processor at hand is good at. Nothing else asks the hardware what a run should compute."""

from __future__ import annotations

import os

import torch

from ..errors import UserError

OVERRIDE = "CONTRAY_BF16"  # yes or no: what to take the hardware for


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
