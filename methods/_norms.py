"""Batch norm over groups of the global batch, whichever ranks hold their rows, and draws per row inside a network.

Legend: B rows of this rank, R = V*B rows of V crops, G norm groups, C channels, W ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm

from ._ranks import full, gathered, shares, world_size

# ---------------------------------------------------------------- batch norm


@dataclass
class Scope:
    """What batch norm and stochastic depth know of the step they run in. `calls`, `statistics` and `waiting` pass on to scopes within this one."""

    slot: Tensor  # (B,)
    size: int
    groups: int
    layout: str
    track: bool
    rand: Callable[..., Tensor] | None
    calls: dict[str, int]  # how often each DropPath was met
    statistics: list[Statistic] | None  # of a chunk: kept here for `apply_statistics`
    waiting: list[
        Statistic
    ]  # of several ranks: applied at the outermost scope's end, those of own groups after one sum over ranks
    known: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    rows: int = 0  # R of the network that runs now, where it tells by `folding`

    @cached_property  # every layer asks
    def own(self) -> bool:
        """Whether each norm group lies on one rank as a whole: then no layer asks another rank for anything."""
        starts = [share.start for share in shares(self.size, world_size())[1:]]
        return self.layout == "blocks" and all(
            start * self.groups // self.size != (start - 1) * self.groups // self.size for start in starts
        )

    def ids(self, rows: int) -> Tensor:
        """The norm group of each of R = V*B crop-major rows, or of each of the k parts of each: (R,) or (R*k,)."""
        key = rows, self.rows
        if key not in self.known:
            crops, parts = self.counts(rows)
            group = self.slot * self.groups // self.size if self.layout == "blocks" else self.slot % self.groups
            self.known[key] = group.repeat(crops).repeat_interleave(parts)
        return self.known[key]

    def counts(self, rows: int) -> tuple[int, int]:
        """Of so many rows of a layer: crops V of each row of the batch, and parts k that the network folded each crop into (windows, tokens)."""
        whole, batch = self.rows or rows, max(len(self.slot), 1)
        if rows % max(whole, 1) or whole % batch:
            raise ValueError(f"a layer saw {rows} rows, which are not whole crops of a batch of {len(self.slot)}")
        return whole // batch, rows // max(whole, 1)


_scope: Scope | None = None


@contextmanager
def norm_scope(
    slot: Tensor, size: int, groups: int, layout: str = "blocks", track: bool = True, rand: Callable[..., Tensor] | None = None
) -> Iterator[Scope]:
    """Within it, batch norm runs over `groups` groups of the global batch of `size`; 0: there must be none. Rows may be a chunk of whole groups.

    layout "blocks": contiguous slots; "strided": slot modulo groups, so that a key shares few rows of its group with its query
    (what MoCo's shuffling is for, He et al. 2020 §3.3). track=False leaves the running statistics alone (replayed passes).
    rand: `Batch.rand`, for stochastic depth.
    """
    global _scope
    if layout not in ("blocks", "strided"):
        raise ValueError(f"norm layout {layout!r}: blocks or strided")
    calls, statistics, waiting = (_scope.calls, _scope.statistics, _scope.waiting) if _scope else ({}, None, [])
    outer, _scope = _scope, Scope(slot, size, groups, layout, track, rand, calls, statistics, waiting)
    try:
        yield _scope
        if outer is None:
            _keep(waiting)
    finally:
        _scope = outer


def again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around what is computed now, and around the same once more in the backward pass (torch's checkpoint, context_fn), when this scope is gone.

    Then the same rows are normed and drawn alike, and the running statistics are left alone.
    """
    return nullcontext(), _once_more(replace(_scope, track=False, calls=dict(_scope.calls), waiting=[]) if _scope else None)


@contextmanager
def _once_more(scope: Scope | None) -> Iterator[None]:
    global _scope
    outer, _scope = _scope, scope
    try:
        yield
    finally:
        _scope = outer


class _GroupedNorm(torch.autograd.Function):
    """Batch norm over groups that may span ranks. Statistics are combined by Chan et al. (1979), in at least float32.

    own: no group spans ranks, so no rank is asked; mean and variance of the groups of others are 0 then.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, ids: Tensor | None, groups: int, eps: float, own: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = full(x)
        space = tuple(range(2, x.ndim))
        channels, area = x.shape[1], x.shape[2:].numel()  # no function below holds x: they live as long as the graph, x need not

        def per_group(rows: Tensor) -> Tensor:  # (R, C) -> (G, C)
            return rows.sum(0, keepdim=True) if ids is None else rows.new_zeros(groups, rows.shape[1]).index_add_(0, ids, rows)

        def per_row(stat: Tensor) -> Tensor:  # (G, C) -> (R or 1, C, 1, 1)
            return (stat if ids is None else stat[ids]).reshape(-1, channels, *[1] * len(space))

        def over_space(values: Tensor) -> Tensor:  # (R, C, *S) -> (R, C)
            return values.sum(space) if space else values

        count = per_group(wide.new_full((len(x), 1), float(area)))  # (G, 1)
        mean = per_group(over_space(wide)) / count.clamp(min=1)  # (G, C)
        scatter = per_group(over_space((wide - per_row(mean)).square()))  # (G, C)
        if world_size() > 1 and not own:
            packed = torch.cat([count, mean, scatter], 1)
            counts, means, scatters = gathered(packed).split([1, channels, channels], 2)  # (W, G, ...)
            count = counts.sum(0)
            mean = (counts * means).sum(0) / count.clamp(min=1)
            scatter = (scatters + counts * (means - mean).square()).sum(0)
        variance = scatter / count.clamp(min=1)  # a chunk has no rows of other chunks' groups: their mean and variance are 0
        scale = (variance + eps).rsqrt()  # (G, C)
        normed = (wide - per_row(mean)) * per_row(scale)
        y = normed
        if weight is not None:
            y = y * weight.reshape(1, -1, *[1] * len(space))
        if bias is not None:
            y = y + bias.reshape(1, -1, *[1] * len(space))
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.per_group, ctx.per_row, ctx.over_space, ctx.has_bias, ctx.own = per_group, per_row, over_space, bias is not None, own
        unbiased = scatter / (count - 1).clamp(min=1)
        ctx.mark_non_differentiable(mean, unbiased)  # else running statistics would keep the graph of every step
        return y.to(x.dtype), mean, unbiased

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        grad = full(grads[0])
        normed = (full(x) - ctx.per_row(mean)) * ctx.per_row(scale)
        sums = ctx.over_space(grad)  # (R, C)
        products = ctx.over_space(grad * normed)  # (R, C)
        grad_weight = products.sum(0) if weight is not None else None  # own rows only: the engine sums gradients over ranks
        grad_bias = sums.sum(0) if ctx.has_bias else None
        totals = torch.cat([ctx.per_group(sums), ctx.per_group(products)], 1)  # (G, 2C)
        if world_size() > 1 and not ctx.own:
            dist.all_reduce(totals)
        total, product = (totals / count.clamp(min=1)).chunk(2, 1)
        grad_x = (grad - ctx.per_row(total) - normed * ctx.per_row(product)) * ctx.per_row(scale)
        if weight is not None:
            grad_x = grad_x * weight.reshape(1, -1, *[1] * (x.ndim - 2))
        return grad_x.to(x.dtype), grad_weight, grad_bias, None, None, None, None


class BatchNorm(nn.Module):
    """Batch norm under the norm law, for (R, C) and (R, C, H, W): one layer for one rank and many, CPU and GPU.

    It runs over the norm groups of the surrounding `norm_scope` (none: one group over all ranks), never over "what this rank holds".
    Parameters and buffers are named as torch's, so checkpoints are interchangeable.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, scale: bool = True, shift: bool = True) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels)) if scale else None
        self.bias = nn.Parameter(torch.zeros(channels)) if shift else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        track = _scope is None or _scope.track
        groups = 1 if _scope is None else _scope.groups
        if groups == 0:
            raise RuntimeError("this pass runs in chunks that are not whole norm groups, and met batch norm outside any backbone")
        if groups == 1 and world_size() == 1:
            running = (self.running_mean, self.running_var)
            if track:
                self.num_batches_tracked += 1
            else:  # copies, not none: autograd keeps as many tensors whether it is tracked or not (see `again`)
                running = (self.running_mean.clone(), self.running_var.clone())
            return F.batch_norm(x, *running, self.weight, self.bias, True, self.momentum, self.eps)
        whole = _scope is None or _scope.statistics is None
        if x.is_cuda and groups == 1 and whole:  # with torch's fused kernels
            if track:
                self.num_batches_tracked += 1
            running = (self.running_mean, self.running_var) if track else (None, None)
            return SyncBatchNorm.apply(
                x, self.weight, self.bias, *running, self.eps, self.momentum, dist.group.WORLD, world_size()
            )
        ids = None if groups == 1 or _scope is None else _scope.ids(len(x))
        own = world_size() > 1 and _scope is not None and _scope.own  # groups of ranks that hold all of their rows
        y, mean, variance = _GroupedNorm.apply(x, self.weight, self.bias, ids, groups, self.eps, own)  # pyright: ignore[reportGeneralTypeIssues]
        if track:
            statistic = self, mean.mean(0), variance.mean(0), own
            if _scope is not None and _scope.statistics is not None:
                _scope.statistics.append(statistic)
            elif _scope is not None and world_size() > 1:
                _scope.waiting.append(statistic)
            else:
                self.keep(*statistic[1:3])
        return y

    def keep(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of one call: (C,) each, the means over the norm groups."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


Statistic = tuple[
    BatchNorm, Tensor, Tensor, bool
]  # means over the norm groups, (C,) each, and whether they are of this rank's groups alone


def apply_statistics(chunks: Sequence[Sequence[Statistic]]) -> None:
    """Move the running statistics, call by call, by what the chunks of one pass left in their scopes: each has its groups' part of the means."""
    summed: list[Statistic] = []
    for calls in zip(*chunks, strict=True):
        layers, means, variances, owns = zip(*calls, strict=True)
        summed.append((layers[0], torch.stack(means).sum(0), torch.stack(variances).sum(0), owns[0]))
    _keep(summed)


def _keep(calls: Sequence[Statistic]) -> None:
    """Move the running statistics, in the order of the calls; what ranks know of their own groups alone is summed first, all of it at once."""
    parts = [values for _, mean, variance, own in calls if own for values in (mean, variance)]
    if parts:
        flat = torch.cat(parts)
        dist.all_reduce(flat)
        parts = list(flat.split([len(values) for values in parts]))
    for layer, mean, variance, own in calls:
        layer.keep(*((parts.pop(0), parts.pop(0)) if own else (mean, variance)))


# ---------------------------------------------------------------- draws per row


def folding(net: nn.Module) -> nn.Module:
    """`net` tells layers within it how many rows it was given, so that they know of rows that it folds (windows, tokens); returns it."""
    net.register_forward_pre_hook(_enter)
    net.register_forward_hook(_leave, always_call=True)
    return net


def _enter(net: nn.Module, given: tuple[Tensor, ...]) -> None:
    if _scope is not None:
        _scope.rows = len(given[0])


def _leave(net: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
    if _scope is not None:
        _scope.rows = 0


class _Drawing(nn.Module):
    """Draws come from `Batch.rand` of the surrounding `norm_scope`: a pure function of (seed, step, slot, name, call within the step)."""

    def __init__(self, rate: float, name: str) -> None:
        super().__init__()
        self.rate, self.name = rate, name

    def drop(self, x: Tensor, *shape: int) -> Tensor:
        """x (R*k, ...) with what is drawn below `rate` left out and the rest raised by it; one draw for each row and place in `shape`."""
        if not self.training or self.rate == 0:
            return x
        if _scope is None or _scope.rand is None:
            raise RuntimeError(
                f"{self.name}: {self.what} draws per row: it needs norm_scope(..., rand=batch.rand) around the forward pass"
            )
        call = _scope.calls[self.name] = _scope.calls.get(self.name, -1) + 1
        if not len(x):
            return x  # a chunk of none of this rank's rows
        crops, parts = _scope.counts(len(x))
        each = math.prod(shape) * parts
        draws = _scope.rand(f"{self.name}/{call}", (crops * each,))  # (B, V*k*...)
        draws = draws.unflatten(1, (crops, each)).transpose(0, 1).reshape(-1, *shape)  # (R*k, ...), crop-major
        kept = (draws >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * kept.reshape(*kept.shape, *[1] * (x.ndim - kept.ndim))

    what = "it"


class DropPath(_Drawing):
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): each row's residual branch is left out with probability `rate`."""

    what = "stochastic depth"

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x)


class Dropout(_Drawing):
    """Dropout (Srivastava et al. 2014): each feature of each row, or with `whole` each channel, is left out with probability `rate`."""

    what = "dropout"

    def __init__(self, rate: float, name: str, whole: bool = False) -> None:
        super().__init__(rate, name)
        self.whole = whole

    @property
    def p(self) -> float:
        """As torch's Dropout calls its rate."""
        return self.rate

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x, *(x.shape[1:2] if self.whole else x.shape[1:]))
