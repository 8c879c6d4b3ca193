"""Gradients summed over ranks, in fixed buckets, while the backward pass still runs.

Ours rather than DistributedDataParallel: that averages, and lays out its buckets anew after its first step, so that a resumed run would add
in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..methods._base import Method
from ..methods._ranks import group, world_size

BUCKET = 8 * 2**20  # bytes: what is left to send when the backward pass ends


class Gradients:
    """The sums over ranks of a method's gradients (the ranks' losses sum to the global loss); a missing gradient counts as zero.

    Buckets are filled from the last parameter to the first, as the backward pass mostly gives them, and sent in that order whatever comes first,
    so that all ranks ask for the same and add in the same order in every step and after every restart.
    """

    def __init__(self, method: Method) -> None:
        params = [p for p in method.parameters() if p.requires_grad]
        self.alone = params if world_size() == 1 else []
        self.buckets = [] if self.alone else [_Bucket(each) for each in divided(params[::-1], BUCKET)]
        # a group of their own: layers that ask ranks during the backward pass do not stand behind them
        self.group = group("gradients") if self.buckets else None
        self.overlaps, self.sent = False, 0
        self.hooks = [p.register_post_accumulate_grad_hook(self._ready) for each in self.buckets for p in each.params]
        self.of = {p: bucket for bucket in self.buckets for p in bucket.params}

    @contextmanager
    def overlapped(self) -> Iterator[None]:
        """Within it runs the one backward pass, or the last of several, after which a parameter's gradient is whole."""
        self.overlaps = True
        try:
            yield
        finally:
            self.overlaps = False

    def _ready(self, param: Tensor) -> None:
        if not self.overlaps:
            return
        self.of[param].waits.discard(param)
        while self.sent < len(self.buckets) and not self.buckets[self.sent].waits:
            self._send()

    def _send(self) -> None:
        self.buckets[self.sent].send(self.group)
        self.sent += 1

    def sum(self) -> None:
        """Send what was not sent yet and wait for all of it; the sums are in `grad`."""
        while self.sent < len(self.buckets):
            self._send()
        for bucket in self.buckets:
            bucket.wait()
        self.sent = 0
        for p in self.alone:
            if p.grad is None:  # as in a bucket: weight decay and momentum have their say whatever the number of ranks
                p.grad = torch.zeros_like(p)

    def close(self) -> None:
        """Let the parameters go."""
        for hook in self.hooks:
            hook.remove()


class _Bucket:
    """Gradients that are summed by one collective: while it runs, and after it, they lie one behind the other in `flat`."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params, self.waits, self.work = params, set(params), None
        self.flat, self.views = packed(params)

    @torch.no_grad()
    def send(self, among: Any) -> None:
        there = [(view, p.grad) for view, p in zip(self.views, self.params, strict=True) if p.grad is not None]
        if len(there) < len(self.params):
            self.flat.zero_()
        if there:
            torch._foreach_copy_([view for view, _ in there], [grad for _, grad in there])
        for view, p in zip(self.views, self.params, strict=True):
            p.grad = view
        self.work = dist.all_reduce(self.flat, group=among, async_op=True)

    def wait(self) -> None:
        assert self.work is not None
        self.work.wait()
        self.work, self.waits = None, set(self.params)


def packed(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One tensor for all elements of several of one type, and in it a view like each."""
    sizes = [each.numel() for each in tensors]
    flat = torch.empty(sum(sizes), dtype=tensors[0].dtype, device=tensors[0].device)
    return flat, [piece.as_strided(each.shape, each.stride()) for piece, each in zip(flat.split(sizes), tensors, strict=True)]


def divided(params: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Runs of them, of one type and at most so many bytes each, but for a parameter that is larger alone."""
    bucket: list[Tensor] = []
    for p in params:
        if bucket and (p.dtype != bucket[0].dtype or sum(each.nbytes for each in bucket) + p.nbytes > most):
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket
