"""Where two results differ: tensors in nested dicts and lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gap:
    """Two values at one place that are not the same."""

    path: tuple[str, ...]
    actual: Any
    expected: Any

    def __str__(self) -> str:
        return f"{'/'.join(self.path)}: {self.size}"

    @property
    def size(self) -> str:
        """How far they are apart, in words."""
        a, b = self.actual, self.expected
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return f"{_shown(a)} in the place of {_shown(b)}"
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{tuple(a.shape)} {a.dtype} in the place of {tuple(b.shape)} {b.dtype}"
        if a.numel() == 1:
            return f"{a.item():.6g} in the place of {b.item():.6g}"
        return f"{(a.double() - b.double()).abs().max():.3g} apart, of at most {b.double().abs().max():.3g}"

    @property
    def factor(self) -> float:
        """By what the one is the other, where it is so throughout; else 0."""
        a, b = self.actual, self.expected
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape or not a.is_floating_point():
            return 0.0
        found = float((a * b).sum() / b.square().sum().clamp(min=1e-300))
        return found if torch.allclose(a, found * b, rtol=1e-6, atol=1e-9 * float(b.abs().max())) else 0.0


def gaps(actual: Any, expected: Any, rtol: float, atol: float, path: tuple[str, ...] = ()) -> Iterator[Gap]:
    """Where `actual` is not `expected`; atol in units of a tensor's largest value, at least 1; 0 and 0: bit-equal."""
    if isinstance(expected, dict):
        if not isinstance(actual, dict) or actual.keys() != expected.keys():
            yield Gap(path, sorted(actual), sorted(expected))
            return
        for key in expected:
            yield from gaps(actual[key], expected[key], rtol, atol, (*path, str(key)))
    elif isinstance(expected, list):
        if len(actual) != len(expected):
            yield Gap(path, len(actual), len(expected))
        for i, (one, other) in enumerate(zip(actual, expected, strict=False)):
            yield from gaps(one, other, rtol, atol, (*path, str(i)))
    elif isinstance(expected, Tensor):
        if not _close(actual, expected, rtol, atol):
            yield Gap(path, actual, expected)
    elif actual != expected:
        yield Gap(path, actual, expected)


def _close(actual: Any, expected: Tensor, rtol: float, atol: float) -> bool:
    if not isinstance(actual, Tensor) or actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    if not expected.is_floating_point():
        return torch.equal(actual, expected)
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(actual, expected, rtol=rtol, atol=atol * max(1.0, largest))


def _shown(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else str(value)
