"""Losses over all pairs of rows and keys, exact and in memory linear in both: the matrix of similarities exists a tile at a time.

Legend: R rows of this rank, K keys, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 2**24  # similarities that exist at once: 64 MiB in float32


class _Tiled(torch.autograd.Function):
    """The sum of a loss over tiles of rows. A tile's gradient is taken while its similarities exist, so none is computed twice."""

    @staticmethod
    def forward(
        ctx: Any, part: Callable[..., tuple[Tensor, Tensor]], height: int, sliced: int, *inputs: Any
    ) -> tuple[Tensor, ...]:
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        grads = {i: torch.zeros_like(inputs[i]) for i in wanted}
        sums: list[Tensor] = []
        for start in range(0, len(inputs[0]), height):
            rows = slice(start, start + height)
            tile: list[Any] = [x[rows] if i < sliced and x is not None else x for i, x in enumerate(inputs)]
            for i in wanted:
                tile[i] = tile[i].detach().requires_grad_()
            with torch.set_grad_enabled(bool(wanted)):
                values = part(*tile)
            if wanted:
                for i, grad in zip(wanted, torch.autograd.grad(values[0], [tile[i] for i in wanted]), strict=True):
                    (grads[i][rows] if i < sliced else grads[i]).add_(grad)
            sums = [value.detach() + (sums[i] if sums else 0) for i, value in enumerate(values)]
        ctx.places, ctx.inputs = wanted, len(inputs)
        ctx.save_for_backward(*grads.values())
        ctx.mark_non_differentiable(sums[1])
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        grads: list[Tensor | None] = [None] * ctx.inputs
        for i, grad in zip(ctx.places, ctx.saved_tensors, strict=True):
            grads[i] = grad * outer[0]
        return None, None, None, *grads


def tiled(
    part: Callable[..., tuple[Tensor, Tensor]], rows: Sequence[Tensor | None], shared: Sequence[Any], columns: int
) -> tuple[Tensor, Tensor]:
    """`part(*rows, *shared)`, a loss and a count summed over rows, each of which is compared with `columns` keys.

    rows: tensors whose first axis is the R rows (the first is one), or None; shared: the keys and whatever else all rows need. Up to TILE similarities
    it is the plain call; beyond, the sum over tiles of rows. Gradients of the loss flow to every tensor of both, once (no double backward).
    """
    height = max(1, TILE // columns)
    inputs = [*rows, *shared]
    if len(inputs[0]) <= height:  # pyright: ignore[reportArgumentType]
        return part(*inputs)
    if not torch.is_grad_enabled():
        inputs = [x.detach() if isinstance(x, Tensor) else x for x in inputs]
    return _Tiled.apply(part, height, len(rows), *inputs)  # pyright: ignore[reportReturnType]


def identify(
    rows: Tensor, keys: Tensor, target: Tensor, temperature: float | Tensor, excluded: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy of each row (R, D) finding its key `target` (R,) among all keys (K, D), summed over rows, and the rows that do.

    excluded: (R,) the one key that a row is not compared with. A tensor as temperature gets its gradient.
    """
    return tiled(_identify, (rows, target, excluded), (keys, temperature), len(keys))


def _identify(
    rows: Tensor, target: Tensor, excluded: Tensor | None, keys: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    logits = (rows / temperature) @ keys.T  # (R, K)
    if excluded is not None:
        logits.scatter_(1, excluded[:, None], -torch.inf)
    return F.cross_entropy(logits, target, reduction="sum"), hits(logits, target)


def hits(logits: Tensor, target: Tensor | int) -> Tensor:
    """How many rows of logits (R, K) have their largest at `target` (R,)."""
    return (logits.detach().argmax(1) == target).sum().to(logits.dtype)
