"""What spans ranks: gathers and sums with a right gradient, what the first rank computes for all.

Legend: B rows of this rank, N rows of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def world_size() -> int:
    """Ranks of the process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def shares(size: int, world: int) -> list[range]:
    """The slots of each rank: contiguous, in rank order, their numbers differing by at most one."""
    ends = [(rank + 1) * (size // world) + min(rank + 1, size % world) for rank in range(world)]
    return [range(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def gathered(x: Tensor) -> Tensor:
    """(W, *x.shape) what each rank has, by one collective into one tensor."""
    parts = x.new_empty(world_size() * len(x), *x.shape[1:])
    (getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor)(parts, x)  # torch 2.14's name, and the one before
    return parts.unflatten(0, (-1, len(x)))


class _Gather(torch.autograd.Function):
    """Uneven shares are padded to the largest, since all_gather aborts on uneven ones; gradients are summed over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        parts = shares(size, world_size())
        ctx.own, ctx.even = parts[dist.get_rank()], len(parts[0]) == len(parts[-1])
        if len(x) != len(ctx.own):
            raise ValueError(f"this rank holds {len(x)} rows, its share of {size} is {len(ctx.own)}")
        padded = F.pad(x, [0, 0] * (x.ndim - 1) + [0, len(parts[0]) - len(x)]).contiguous()
        found = gathered(padded)
        if ctx.even:
            return found.flatten(0, 1)
        return torch.cat([rows[: len(part)] for rows, part in zip(found, parts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].contiguous()
        if ctx.even:  # each rank its own rows alone
            own = grad.new_empty(len(ctx.own), *grad.shape[1:])
            (getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor)(own, grad)
            return own, None
        total = grad.clone()
        dist.all_reduce(total)
        return total[ctx.own.start : ctx.own.stop], None


def gather(x: Tensor, size: int) -> Tensor:
    """(B, ...) rows of each rank -> (N, ...) rows of the global batch of `size`, in slot order, on every rank; differentiable."""
    return x if world_size() == 1 else _Gather.apply(x, size)  # pyright: ignore[reportReturnType]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def total(x: Tensor) -> Tensor:
    """The sum of `x` over ranks, on every rank; gradients are summed over ranks, as the losses are."""
    return x if world_size() == 1 else _Total.apply(x)  # pyright: ignore[reportReturnType]


_groups: dict[str, tuple[Any, Any]] = {}


def group(name: str, **options: Any) -> Any:
    """A group of all ranks beside the first one, `options` as of torch's new_group. Ranks must come to its first use together."""
    if _groups.get(name, (None,))[0] is not dist.group.WORLD:
        _groups[name] = dist.group.WORLD, dist.new_group(**options)
    return _groups[name][1]


def side_group() -> Any:
    """A gloo group of all ranks, for what one rank may need long for while the others wait, and for what is no tensor on the device.

    It waits for a day, where NCCL's and Ray's groups give up after minutes.
    """
    return group("side", backend="gloo", timeout=timedelta(days=1))


def from_first(compute: Callable[[], Sequence[Tensor]], like: Sequence[Tensor]) -> Sequence[Tensor]:
    """What `compute()` gives on rank 0, on every rank, bit for bit; `like` are tensors of the same shapes and types.

    An error on rank 0 is that rank's own; the others then end with the process group.
    """
    if world_size() == 1:
        return compute()
    values = compute() if dist.get_rank() == 0 else [torch.empty_like(x) for x in like]
    dist.barrier(group=side_group())  # `compute` may take longer than the broadcast would wait
    for value in values:
        dist.broadcast(value, 0)
    return values


def full(x: Tensor) -> Tensor:
    """At least float32: losses are not computed in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
