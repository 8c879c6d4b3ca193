"""Which rows of the global batch go through the backbones together, where a worker's share of it is too large (scale.max_batch_per_worker).

A chunk is a set of norm groups, the same on every rank; each rank takes its rows of them. Without batch norm in the backbones every
row is a group of its own. Everything here follows from the config and the number of workers alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..methods._base import Method
from ..methods._norms import BatchNorm
from ..methods._ranks import shares


@dataclass(frozen=True)
class Chunk:
    """The rows of this rank that are represented together: (b,) places in its share, and (b',) those of `Method.strided` views.

    groups: of batch norm; 0: there is none to run.
    """

    rows: Tensor
    strided: Tensor
    groups: int


def plan(size: int, world: int, groups: int, limit: int) -> list[range]:
    """The norm groups of each chunk: as few chunks as keep every rank within `limit` rows of each, in both layouts; one without a limit.

    Every k-th group stands in a chunk of k, so that each rank, whose slots are contiguous, has its part of every chunk.
    Raises ConfigError when a single group is too large.
    """
    largest = -(-size // world)
    if limit == 0 or largest <= limit:
        return [range(groups)]
    counts = [
        Counter(group)
        for own in shares(size, world)
        for group in ((slot * groups // size for slot in own), (slot % groups for slot in own))
    ]
    for chunks in range(-(-largest // limit), groups + 1):
        found = [range(first, groups, chunks) for first in range(chunks)]
        if all(sum(count[group] for group in chunk) <= limit for chunk in found for count in counts):
            return found
    fitting, least = -(-size // limit), -(-size // (size // 2))
    mend = (
        f"train.norm_groups {fitting} would fit"
        if 2 * fitting <= size
        else f"must be at least {least}: batch norm needs groups of at least 2 rows"
    )
    raise ConfigError(
        "scale.max_batch_per_worker",
        f"got {limit}, but a norm group of {-(-size // groups)} rows (train.norm_groups {groups}) runs in one piece; {mend}",
    )


def normed(method: Method) -> bool:
    """Whether batch norm runs in what is done chunk by chunk: the backbones, or all of a method whose loss couples no rows."""
    divided = [module for module in method.modules() if hasattr(module, "out_dim") and module is not method]
    return any(isinstance(layer, BatchNorm) for part in (divided if method.couples else [method]) for layer in part.modules())


def divide(method: Method, size: int, groups: int, limit: int, world: int, rank: int) -> Sequence[Chunk]:
    """This rank's chunks. Raises ConfigError as `plan` does."""
    own, norm = shares(size, world)[rank], normed(method)
    whole = groups if norm else size
    chunks = []
    for chosen in plan(size, world, whole, limit):
        rows = [i for i, slot in enumerate(own) if slot * whole // size in chosen]
        strided = [i for i, slot in enumerate(own) if slot % whole in chosen]
        if rows or norm:  # batch norm waits for every rank, so each runs every chunk, be it of no rows
            chunks.append(Chunk(torch.tensor(rows, dtype=torch.long), torch.tensor(strided, dtype=torch.long), norm * groups))
    return chunks
