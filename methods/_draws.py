"""Randomness of `Batch`: numbers that are a pure function of a key and a place, with no generator's state.

Legend: B rows of this rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# as torch.compiler.disable, which takes a second to import what compiles for everybody; torch's own optimisers use this one
_not_compiled: Callable[..., Any] = getattr(torch, "_disable_dynamo", torch.compiler.disable)


@_not_compiled  # inductor narrows its 64 bit constants on a GPU, and Triton then refuses them
def bits(slot: Tensor, key: int, count: int) -> Tensor:
    """(B, count) int64 of slots (B,)"""
    rows = _mix(slot.to(torch.int64) ^ key)[:, None]  # (B, 1)
    return _mix(rows + _mix(torch.arange(1, count + 1, device=slot.device)))


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014) on int64; shifts are made logical by masks."""
    x = x + -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def uniform(drawn: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in [0, 1) of int64, by their 53 upper bits."""
    wide = ((drawn >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53
    return wide.to(dtype).clamp(max=1.0 - torch.finfo(dtype).eps / 2)


def normal(draws: Tensor) -> Tensor:
    """Standard normal numbers of uniform ones in [0, 1), float64: in fewer digits one of 2^25 would be infinite."""
    return torch.special.ndtri(draws.clamp(min=2.0**-54))
