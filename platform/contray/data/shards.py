"""Shards: how the samples of a split lie together, in what is fetched at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMALLEST, LARGEST = 64 * 2**20, 256 * 2**20  # bytes between which a shard has enough, where it can be cut


@dataclass(frozen=True)
class Shards:
    """starts: (S + 1,) where each shard's samples begin, and their number. sizes: (S,) bytes that the copy of each takes on this machine's disk, 0
    where it is read where it lies.

    fetch(shard) sees that the copy stands, and says False where another process is making it; release() closes what this process has open; limit():
    bytes that all copies may take.
    """

    starts: np.ndarray
    sizes: np.ndarray
    fetch: Callable[[int], bool] = lambda shard: True
    release: Callable[[], None] = lambda: None
    limit: Callable[[], float] = lambda: float("inf")

    def __len__(self) -> int:
        return len(self.sizes)

    def of(self, i: int) -> int:
        """The shard of a sample."""
        return int(np.searchsorted(self.starts, i, side="right")) - 1

    def subset(self, ids: np.ndarray) -> Shards:
        """Of these samples, by their places among the ids, which ascend."""
        return Shards(np.searchsorted(ids, self.starts), self.sizes, self.fetch, self.release, self.limit)
