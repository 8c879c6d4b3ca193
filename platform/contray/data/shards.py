"""Shards: how the samples of a split lie together, in what is fetched at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..config.sections import DataConfig
from ..errors import ConfigError

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

    def held(self) -> Shards:
        """The same, of which nothing needs to be fetched any longer."""
        return Shards(self.starts, np.zeros_like(self.sizes))

    def subset(self, ids: np.ndarray) -> Shards:
        """Of these samples, by their places among the ids, which ascend."""
        return Shards(np.searchsorted(ids, self.starts), self.sizes, self.fetch, self.release, self.limit)


def check_room(shards: Shards | None, config: DataConfig, decoded: Callable[[], float]) -> None:
    """Raises ConfigError where the order cannot be had of what does not lie in shards, and where the copies that it needs at once have no room.

    decoded(): bytes of all images decoded: where these fit data.memory_gb nothing is copied.
    """
    blocks = config.shuffle == "blocks"
    if shards is None:
        if blocks:
            raise ConfigError(
                "data.shuffle",
                f"got blocks, but {config.source} is not read in shards (Parquet, tar and Arrow are); leave it at full",
            )
        return
    sizes = np.sort(shards.sizes)[::-1]
    need = int(sizes[: 2 * config.window].sum() if blocks else sizes.sum())
    limit = shards.limit() if need else 0.0
    if need <= limit or decoded() <= config.memory_gb * 1e9:
        return
    room = f"data.disk_gb gives {limit / 1e9:.3g}" if config.disk_gb else f"data.scratch has room for {limit / 1e9:.3g}"
    larger = "or raise data.disk_gb" if config.disk_gb else "or name a folder on a larger disk with --data.scratch"
    fits = int(np.searchsorted(np.cumsum(sizes), limit, side="right")) // 2
    if blocks:
        lower = f"lower it to {fits}" if fits else f"the largest shard alone takes {sizes[0] / 1e9:.3g}: write smaller shards"
        raise ConfigError(
            "data.window",
            f"got {config.window}: two windows of shards, one read and one fetched, take {need / 1e9:.3g} GB, and {room}; {lower}, {larger}",
        )
    mend = f"--data.shuffle blocks --data.window {min(fits, 16)} needs few of them at once, {larger}" if fits else larger[3:]
    raise ConfigError("data.shuffle", f"got full, which needs all shards at once: {need / 1e9:.3g} GB, and {room}; {mend}")
