"""One step up to its gradients, summed over ranks, undivided or in chunks, in the memory that there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from .. import model
from ..config import RunConfig
from ..errors import ConfigError, UserError
from ..methods._base import Batch, Clock, Method, Reps
from ..methods._norms import BatchNorm, apply_statistics
from ..methods._ranks import shares
from ..model.chunks import Chunk, divide
from ..model.gradients import Gradients
from ..storage import sealed
from ..storage.folder import Storage
from .agreement import Ranks

LIMIT = "max_batch.json"


def forward_backward(
    config: RunConfig, method: Method, batch: Batch, clock: Clock, chunks: Sequence[Chunk], gradients: Gradients
) -> tuple[Reps, dict[str, Tensor]]:
    """The representations, with what `loss` left in them, and what `loss` gave; gradients, summed over ranks, are in the parameters.

    In chunks: the same by cached gradients (GradCache, Gao et al. 2021, arXiv 2101.06983, §3.2): representations without their graphs,
    the loss and its gradient of them, then chunk by chunk once more with that gradient.
    """
    if len(chunks) == 1:
        with model.autocast(config, batch.slot.device), batch.norm("blocks"):
            reps = method.represent(batch, clock)
            out = method.loss(reps, batch, clock)
        with gradients.overlapped():
            out["loss"].backward()
        gradients.sum()
        return reps, out
    return (_cached if method.couples else _accumulated)(config, method, batch, clock, chunks, gradients)


def _cached(
    config: RunConfig, method: Method, batch: Batch, clock: Clock, chunks: Sequence[Chunk], gradients: Gradients
) -> tuple[Reps, dict[str, Tensor]]:
    def represent(chunk: Chunk, track: bool) -> Reps:
        part = _part(method, batch, chunk, track)
        scope.calls.clear()  # what draws by the number of its call draws as it did in the chunk before
        with model.autocast(config, batch.slot.device), part.norm("blocks"):
            return method.represent(part, clock)

    with batch.norm("blocks") as scope:
        parts, statistics, trained = [], [], set()
        for chunk in chunks:
            scope.statistics = []
            reps = represent(chunk, batch.track)
            trained |= {name for name, rep in reps.items() if rep.requires_grad}
            parts.append({name: rep.detach() for name, rep in reps.items()})
            statistics.append(scope.statistics)
            del reps
        scope.statistics = None
        apply_statistics(statistics)
        reps = _merge(method, parts, chunks)
        del parts
        leaves = {name: reps[name].requires_grad_() for name in reps if name in trained}
        with model.autocast(config, batch.slot.device):
            out = method.loss(reps, batch, clock)
        out["loss"].backward()
        wanted = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        for chunk in chunks:
            again = represent(chunk, False)
            torch.autograd.backward(
                [again[name] for name in wanted],
                [gradient[_rows(method, name, chunk)] for name, gradient in wanted.items()],
            )
    gradients.sum()
    return reps, out


def _accumulated(
    config: RunConfig, method: Method, batch: Batch, clock: Clock, chunks: Sequence[Chunk], gradients: Gradients
) -> tuple[Reps, dict[str, Tensor]]:
    """Where no rows are coupled the chunks' losses sum to the batch's."""
    parts, outs, statistics = [], [], []
    for chunk in chunks:
        part = _part(method, batch, chunk, batch.track)
        with model.autocast(config, batch.slot.device), part.norm("blocks") as scope:
            scope.statistics = []
            reps = method.represent(part, clock)
            names = set(reps)
            out = method.loss(reps, part, clock)
        if set(reps) != names:
            raise RuntimeError(f"{type(method).__name__} couples no rows, yet its loss left {sorted(set(reps) - names)} in reps")
        with gradients.overlapped() if chunk is chunks[-1] else nullcontext():
            out["loss"].backward()
        parts.append({name: rep.detach() for name, rep in reps.items()})
        outs.append({name: value.detach() for name, value in out.items()})
        statistics.append(scope.statistics)
        del reps, out
    gradients.sum()
    apply_statistics(statistics)
    return _merge(method, parts, chunks), {name: torch.stack([out[name] for out in outs]).sum(0) for name in outs[0]}


def _rows(method: Method, name: str, chunk: Chunk) -> Tensor:
    return chunk.strided if name in method.strided else chunk.rows


def _part(method: Method, batch: Batch, chunk: Chunk, track: bool) -> Batch:
    """The chunk's rows of a batch."""
    return dataclasses.replace(
        batch,
        views={name: view[_rows(method, name, chunk)] for name, view in batch.views.items()},
        index=batch.index[chunk.rows],
        slot=batch.slot[chunk.rows],
        strided=batch.slot[chunk.strided],
        groups=chunk.groups,
        track=track,
    )


def _merge(method: Method, parts: Sequence[Reps], chunks: Sequence[Chunk]) -> Reps:
    """The chunks' representations in the order of slots."""
    return {
        name: torch.cat([part[name] for part in parts])[torch.cat([_rows(method, name, chunk) for chunk in chunks]).argsort()]
        for name in parts[0]
    }


class Stepper:
    """`forward_backward` within scale.max_batch_per_worker, or half of it from where memory runs out.

    A single process does the step again. Of several workers none can alone: the half is kept in the run's storage, for the workers that start anew.
    """

    def __init__(self, config: RunConfig, method: Method, rank: int, world: int, storage: Storage | None) -> None:
        self.config, self.method, self.rank, self.world, self.storage = config, method, rank, world, storage
        self.limit, self.halved = config.scale.max_batch_per_worker, False
        kept = Ranks().first(lambda: _kept(storage) if storage else {})
        if kept.get("given") == self.limit:  # else the user has chosen anew
            self.limit, self.halved = kept["limit"], True
        self.chunks = self._divide()
        self.gradients = Gradients(method)
        layers = [layer for layer in method.modules() if isinstance(layer, BatchNorm)]
        self.statistics = [buffer for layer in layers for buffer in layer.buffers()]
        self.before = [buffer.clone() for buffer in self.statistics]

    def _divide(self) -> Sequence[Chunk]:
        train, device = self.config.train, self.method.samples.device
        chunks = divide(self.method, train.batch_size, train.norm_groups, self.limit, self.world, self.rank)
        return [dataclasses.replace(chunk, rows=chunk.rows.to(device), strided=chunk.strided.to(device)) for chunk in chunks]

    def __call__(self, batch: Batch, clock: Clock) -> tuple[Reps, dict[str, Tensor]]:
        """As `forward_backward`. Raises UserError when memory runs out for good, OutOfMemoryError when new workers will do better."""
        if not self.halved and self.world == 1:
            _copy(self.before, self.statistics)
        try:
            return forward_backward(self.config, self.method, batch, clock, self.chunks, self.gradients)
        except torch.OutOfMemoryError:
            pass  # the rest after this clause, since its traceback holds what filled the memory
        self._halve()
        for p in self.method.parameters():
            p.grad = None
        _copy(self.statistics, self.before)
        if batch.slot.is_cuda:
            torch.cuda.empty_cache()
        return self(batch, clock)

    def _halve(self) -> None:
        share = len(shares(self.config.train.batch_size, self.world)[0])
        used = min(self.limit or share, share)
        if self.halved or used == 1 or (self.world > 1 and self.storage is None):
            raise UserError(
                f"out of memory with {used} rows of each worker in the backbones at once; "
                f"set scale.max_batch_per_worker below {used}, or use more workers or a smaller train.batch_size"
            )
        given, self.limit, self.halved = self.config.scale.max_batch_per_worker, used // 2, True
        try:
            self.chunks = self._divide()
        except ConfigError as error:
            raise UserError(
                f"out of memory with {used} rows of each worker in the backbones at once, and no smaller chunks can be made: "
                f"{error.problem.partition(', but ')[2] or error.problem}"
            ) from None
        if self.storage is not None:  # who goes on computes in the same halves
            sealed.write(self.storage, LIMIT, {"given": given, "limit": self.limit})
        goes_on = "the step is done again" if self.world == 1 else "new workers go on"
        told = f"out of memory with {used} rows in the backbones at once; {goes_on} with scale.max_batch_per_worker {self.limit}"
        print(f"contray: {told}", flush=True)
        if self.world > 1:
            raise torch.OutOfMemoryError(told)


def _kept(storage: Storage) -> dict[str, int]:
    try:
        return sealed.read(storage, LIMIT, {"given": int, "limit": int}, needed=("limit",)) or {}
    except sealed.Damaged:
        return {}  # memory runs out once more, and the half is kept anew


@torch.no_grad()
def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for kind in {target.dtype for target in targets}:  # lists of one type are copied by few kernels
        pairs = [pair for pair in zip(targets, sources, strict=True) if pair[0].dtype == kind]
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])
