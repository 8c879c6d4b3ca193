"""Which samples are seen when: pure functions, so that a run resumes at any step on any number of workers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from ..config.sections import DataConfig
from .draws import generator
from .splits import Split


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """(n,) int64: the order of an epoch's samples."""
    return generator(seed, "order", epoch).permutation(n)


def window(config: DataConfig) -> int:
    """Shards whose samples are mixed at a time; 0: all samples are."""
    return config.window if config.shuffle == "blocks" else 0


class Full:
    """`data.shuffle full`: an epoch is a permutation of all n samples."""

    def __init__(self, seed: int, n: int) -> None:
        self.seed, self.n = seed, n
        self._kept: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def ids(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) the samples at these places of an epoch."""
        if self._kept[0] != epoch:
            self._kept = (epoch, permutation(self.seed, epoch, self.n))
        return self._kept[1][start:stop]


class Blocks:
    """`data.shuffle blocks`: an epoch is a permutation of the shards, and of the samples within each `window` shards that follow each other in it.

    starts: (S + 1,) where each shard's samples begin, and their number. A window is drawn when it is asked for: nothing holds all samples.
    """

    def __init__(self, seed: int, starts: np.ndarray, window: int) -> None:
        self.seed, self.starts, self.window = seed, starts, window
        self.n = int(starts[-1])
        self._epoch: tuple[int, np.ndarray, np.ndarray] = (-1, np.empty(0, np.int64), np.empty(0, np.int64))
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def windows(self, epoch: int) -> int:
        return -(-len(self._plan(epoch)[0]) // self.window)

    def shards(self, epoch: int, window: int) -> np.ndarray:
        """The shards that a window mixes."""
        return self._plan(epoch)[0][window * self.window : (window + 1) * self.window]

    def window_at(self, epoch: int, place: int) -> int:
        """The window that a place of an epoch lies in."""
        return int(np.searchsorted(self._plan(epoch)[1], place, side="right")) - 1

    def ids(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """(stop - start,) the samples at these places of an epoch."""
        ends = self._plan(epoch)[1]
        parts = [np.empty(0, np.int64)]
        while start < min(stop, self.n):
            window = self.window_at(epoch, start)
            begin, end = ends[window], min(stop, ends[window + 1])
            parts.append(self._drawn(epoch, window)[start - begin : end - begin])
            start = int(end)
        return np.concatenate(parts)

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(shards in their order, (W + 1,) places where windows begin); shards without samples are left out."""
        if self._epoch[0] != epoch:
            sizes = np.diff(self.starts)
            shards = np.flatnonzero(sizes)
            shards = shards[generator(self.seed, "shards", epoch).permutation(len(shards))]
            places = np.concatenate([[0], np.cumsum(sizes[shards])])
            self._epoch = (epoch, shards, np.unique(np.append(places[:: self.window], self.n)))
        return self._epoch[1:]

    def _drawn(self, epoch: int, window: int) -> np.ndarray:
        if (epoch, window) not in self._kept:
            shards, starts = self.shards(epoch, window).tolist(), self.starts
            ids = np.concatenate([np.arange(int(starts[shard]), int(starts[shard + 1])) for shard in shards])
            self._kept[epoch, window] = generator(self.seed, "window", epoch, window).permutation(ids)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[epoch, window]


SHORTEST = 16  # a tail: several broken images of a batch would be replaced by the same few
_KEPT = 3  # windows: that of a batch, the next one's, and the last one's, from which broken images are replaced


def tail(place: int, first: int, n: int) -> Iterator[int]:
    """The places that replace a broken image at `place`, in their order: of the dropped tail from `first` on, where it is no shorter than
    SHORTEST, then all from the one that lies half an epoch away, which is in no company of `place`, and another one for each `place`."""
    if n - first >= SHORTEST:
        start = place % (n - first)
        yield from range(first + start, n)
        yield from range(first, first + start)
    half = place + n // 2
    yield from ((half + more) % n for more in range(n))


def holdout(split: Split, fraction: float, seed: int, ids: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(fit ids, held-out ids), both sorted: about `fraction` of each class, and samples of one group on one side.

    A class of at least two groups is on both sides. Without labels all samples count as one class. ids: of these samples alone, sorted;
    else of all whose label is known.
    """
    ids = split.known if ids is None else ids
    groups = ids if split.groups is None else split.groups[ids]
    names, first = np.unique(groups, return_index=True)  # a group counts with the label of its first sample
    labels = np.zeros(len(ids), np.int64) if split.labels is None else split.labels[ids]
    rng = generator(seed, "holdout")
    held: list[np.ndarray] = []
    for label in np.unique(labels[first]):
        members = rng.permutation(names[labels[first] == label])
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held.append(members[:count])
    inside = np.isin(groups, np.concatenate(held))
    return ids[~inside], ids[inside]


def part(ids: np.ndarray, labels: np.ndarray | None, count: int, seed: int, name: str = "part") -> np.ndarray:
    """`count` of the ids, sorted; all of them where there are no more. A pure function of the set of ids, labels, count, seed and name.

    labels: (N,) of the whole split, or None: all count as one class. Each class has its share of the ids, rounded, but at least one image
    where `count` allows; within a class the ids are spread over its order, one drawn at random from each of as many equal stretches: files
    that lie side by side may show one thing, and every other one of them too.
    """
    ids = np.sort(ids)
    if len(ids) <= count:
        return ids
    rng = generator(seed, name)
    kinds = np.zeros(len(ids), np.int64) if labels is None else labels[ids]
    classes, sizes = np.unique(kinds, return_counts=True)
    lowest = min(0, int(classes[0]))
    # a label's luck is that of its number, whatever other labels there are: two parts of one split favour the same classes
    luck = generator(seed, "luck").random(int(classes[-1]) - lowest + 1)[classes - lowest]
    chosen = [
        ids[kinds == label][_stretches(size, quota, rng)]
        for label, size, quota in zip(classes, sizes.tolist(), quotas(sizes, count, luck).tolist(), strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def quotas(sizes: np.ndarray, count: int, luck: np.ndarray) -> np.ndarray:
    """(C,) how many of each class of sizes (C,) make up `count` in all, below their sum: each its share rounded down or up.

    A class whose share is below one gets one, where `count` allows, and the others share the rest. Of equal remainders the one with more luck,
    (C,) all different, is rounded up.
    """
    found, shared = np.zeros(len(sizes), np.int64), np.ones(len(sizes), bool)
    while len(sizes) <= count:
        rare = shared & (sizes * (count - found.sum()) < sizes[shared].sum())
        if not rare.any():
            break
        found[rare], shared = 1, shared & ~rare
    left, whole = count - int(found.sum()), int(sizes[shared].sum())
    shares, remainders = np.divmod(sizes * left, max(whole, 1))
    found = np.where(shared, shares, found)
    up = np.lexsort((luck, np.where(shared, remainders, -1)))[::-1][: count - int(found.sum())]
    found[up] += 1
    return found


def _stretches(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) places below `size`, ascending: one in each of `count` equal stretches."""
    ends = np.arange(count + 1) * size // max(count, 1)
    return rng.integers(ends[:-1], ends[1:]) if count else np.zeros(0, np.int64)
