"""Encoded images, wherever they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from .digests import digest
from .pixels import BrokenImage
from .shards import Shards

Read = Callable[[], bytes | memoryview | None]


@dataclass
class Encoded:
    """Where encoded images lie: read(i) gives the file's bytes, describe(i) its name, content() a cheap digest.

    key(i) names an image within the set, wherever that lies. close() drops what read holds in memory, when all is decoded. sample(n): ids and
    bytes of about n images from all over the set, and stream(): for each of them in order a function that gives its bytes as read does, where
    that is cheaper. memory(): what read holds in memory, in words. lots(): as `Split.lots`, where it need not be worked out. expect(ids): told which
    are asked for next, where to read many at a time is faster. shards(): what is fetched at once, of a set that lies in shards.
    """

    count: int
    read: Callable[[int], bytes | memoryview | None]
    describe: Callable[[int], str]
    content: Callable[[], str]
    key: Callable[[int], str] = str
    close: Callable[[], None] = lambda: None
    sample: Callable[[int], Iterator[tuple[int, bytes | memoryview | None]]] | None = None
    stream: Callable[[], Iterator[Callable[[], bytes | memoryview | None]]] | None = None
    memory: Callable[[], str] = lambda: "each is read when it is asked for"
    lots: Callable[[], np.ndarray] | None = None
    expect: Callable[[Iterable[int]], None] | None = None
    shards: Callable[[], Shards] | None = None

    def subset(self, ids: np.ndarray) -> Encoded:
        """These images, by their places among the ids, which ascend."""
        own, lots, expect = self.shards, self.lots, self.expect

        def at(i: int) -> int:
            return int(ids[i])

        def stream() -> Iterator[Read]:
            assert self.stream is not None
            wanted = iter(ids)
            following = next(wanted, None)
            for i, read in enumerate(self.stream()):
                if i == following:
                    yield read
                    following = next(wanted, None)

        def sample(count: int) -> Iterator[tuple[int, bytes | memoryview | None]]:
            assert self.sample is not None
            found = 0
            for i, data in self.sample(-(-count * self.count // max(len(ids), 1))):
                place = int(np.searchsorted(ids, i))
                if place < len(ids) and ids[place] == i:
                    found += 1
                    yield place, data
            if not found:  # what is cheap to reach is none of these
                for place in np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)).tolist():
                    with suppress(BrokenImage, FileNotFoundError):
                        yield place, self.read(at(place))

        return Encoded(
            len(ids), lambda i: self.read(at(i)), lambda i: self.describe(at(i)), lambda: digest(self.content(), ids),
            lambda i: self.key(at(i)), self.close, sample if self.sample else None, stream if self.stream else None, self.memory,
            None if lots is None else lambda: lots()[ids], None if expect is None else lambda some: expect(map(at, some)),
            None if own is None else lambda: own().subset(ids),
        )  # fmt: skip
