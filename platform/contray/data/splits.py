"""Splits: the images of one part of a data source, by sample id.

Forked loader processes share a split's memory, so `prepare` (decode once) is called before they start.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

_PAUSES = (0.1, 0.5, 2.0)  # seconds between the tries of a read that failed
_SLOW = 2000  # images from which decoding shows a progress bar


class BrokenImage(Exception):
    """An image that no retry will mend: undecodable, empty or gone."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where, self.reason = where, reason

    def __reduce__(self) -> tuple[type[BrokenImage], tuple[str, str]]:
        return (BrokenImage, (self.where, self.reason))


class Split:
    """Images by sample id in [0, len). Subclasses say where the pixels come from.

    labels: (N,) int64, or None; classes: their names. groups: (N,) ids of samples that a hold-out must not separate, or None.
    generated: whether `image` draws a fresh picture from its rng, so that two views of a sample need two calls.
    """

    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    generated = False
    columns: Mapping[str, str] = {"image": "image"}  # column -> image, array or text

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = list(classes)
        self.broken: dict[int, str] = {}  # ids and reasons that `prepare` found
        self.met: dict[int, str] = {}  # ids and reasons that evaluations met

    def __len__(self) -> int:
        raise NotImplementedError

    def image(self, i: int, rng: np.random.Generator | None) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises BrokenImage, or OSError where reading still fails after some tries."""
        raise NotImplementedError

    def value(self, i: int, column: str, rng: np.random.Generator | None) -> Any:
        """What a column holds: an image as `image` gives it, an array (C, T) float32, or a text."""
        if column != "image":
            raise KeyError(column)
        return self.image(i, rng)

    def describe(self, i: int) -> str:
        """The file or row of a sample, for messages."""
        raise NotImplementedError

    def content(self) -> str:
        """A cheap digest of what the split holds: changes when images are added, taken away or replaced by others."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Decode once, where that pays; the pixels are the same without it."""


class ArraySplit(Split):
    """Decoded images in memory: (N, H, W, 3) uint8."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self.name, self.images, self.labels = name, images, labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int, rng: np.random.Generator | None) -> np.ndarray:
        return self.images[i]

    def describe(self, i: int) -> str:
        return f"{self.name} image {i}"

    def content(self) -> str:
        return digest(self.images.shape, np.ascontiguousarray(self.images[:: max(1, len(self) // 1000)]), self.labels)


@dataclass
class Encoded:
    """Where encoded images lie: read(i) gives the file's bytes, describe(i) its name, content() a cheap digest.

    close() drops what read holds in memory, when all is decoded.
    """

    count: int
    read: Callable[[int], bytes | memoryview | None]
    describe: Callable[[int], str]
    content: Callable[[], str]
    close: Callable[[], None] = lambda: None


class EncodedSplit(Split):
    """Encoded images, decoded at each access or, where the decoded set fits `cache_gb`, once by `prepare`."""

    def __init__(
        self,
        encoded: Encoded,
        cache_gb: float,
        labels: np.ndarray | None = None,
        classes: Sequence[str] = (),
        others: Mapping[str, tuple[str, Callable[[int], Any]]] | None = None,
    ) -> None:
        """others: columns besides the image: name -> (kind, read), where `read(i)` gives encoded bytes, an array or a text."""
        super().__init__(classes)
        self.encoded, self.cache_gb, self.labels = encoded, cache_gb, labels
        self.others = others or {}
        self.columns = {"image": "image"} | {name: kind for name, (kind, _) in self.others.items()}
        self._prepared = False
        self._cache: np.ndarray | list[np.ndarray | None] | None = None

    def __len__(self) -> int:
        return self.encoded.count

    def describe(self, i: int) -> str:
        return self.encoded.describe(i)

    def content(self) -> str:
        return digest(len(self), self.encoded.content(), self.labels)

    def image(self, i: int, rng: np.random.Generator | None) -> np.ndarray:
        if i in self.broken:
            raise BrokenImage(self.describe(i), self.broken[i])
        if self._cache is not None:
            return self._cache[i]  # type: ignore[return-value]
        return self._decode(i)

    def value(self, i: int, column: str, rng: np.random.Generator | None) -> Any:
        """Columns besides the image are read, and images among them decoded, at each access."""
        if column == "image":
            return self.image(i, rng)
        kind, read = self.others[column]
        found = read(i)
        if found is None:
            raise BrokenImage(self.describe(i), f"column {column!r} is empty")
        return self._pixels(i, found) if kind == "image" else found

    def prepare(self) -> None:
        if self._prepared:
            return
        self._prepared = True
        if self._estimate() > self.cache_gb * 1e9:
            return
        cache: np.ndarray | list[np.ndarray | None] | None = None
        for i, image in enumerate(self._decode_all()):
            if image is None:
                continue
            if cache is None:  # images of one size, as most small sets have, go into one array
                cache = np.zeros((len(self), *image.shape), np.uint8)
            if isinstance(cache, np.ndarray):
                if image.shape == cache.shape[1:]:
                    cache[i] = image
                    continue
                cache = [*(row.copy() for row in cache[:i]), *(None for _ in range(len(self) - i))]
            cache[i] = image
        self._cache = cache
        self.encoded.close()

    def _estimate(self) -> float:
        """Bytes of the decoded set, from the sizes of some images."""
        probes = np.unique(np.linspace(0, len(self) - 1, 16).astype(int))
        sizes = [image.nbytes for i in probes if (image := self._decode_or_note(int(i))) is not None]
        return float(np.mean(sizes)) * len(self) if sizes else 0.0

    def _decode_all(self) -> Iterator[np.ndarray | None]:
        chunks = [range(start, min(start + 256, len(self))) for start in range(0, len(self), 256)]
        with ThreadPoolExecutor() as pool, _progress(len(self)) as advance:
            for images in pool.map(lambda chunk: [self._decode_or_note(i) for i in chunk], chunks):
                yield from images
                advance(len(images))

    def _decode_or_note(self, i: int) -> np.ndarray | None:
        try:
            return self._decode(i)
        except BrokenImage as broken:
            self.broken[i] = broken.reason
            return None

    def _decode(self, i: int) -> np.ndarray:
        return self._pixels(i, self._read(i))

    def _pixels(self, i: int, data: bytes | memoryview | None) -> np.ndarray:
        return decode(data, self.describe(i))

    def _read(self, i: int) -> bytes | memoryview | None:
        """The encoded bytes; a read that fails is tried again, a file that is gone counts as broken."""
        for pause in (*_PAUSES, None):
            try:
                return self.encoded.read(i)
            except FileNotFoundError as error:
                raise BrokenImage(self.describe(i), "the file is gone") from error
            except OSError:
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")


def decode(data: bytes | memoryview | None, where: str) -> np.ndarray:
    """An encoded image as (H, W, 3) uint8 RGB. Raises BrokenImage."""
    if not data:
        raise BrokenImage(where, "no bytes")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # e.g. a header that claims more pixels than OpenCV takes
        raise BrokenImage(where, f"not decodable ({error.err})") from error
    if image is None:
        raise BrokenImage(where, "not decodable")
    return image


@contextmanager
def _progress(count: int) -> Iterator[Callable[[int], None]]:
    """Yields advance(n): a progress bar on stderr where there are many images, nothing for few."""
    if count < _SLOW:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("decoding images", total=count)
        yield lambda n: bar.advance(task, n)


def digest(*parts: object) -> str:
    """A short hash of arrays (by their bytes) and of anything whose repr says it all."""
    found = hashlib.blake2b(digest_size=12)
    for part in parts:
        found.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
        found.update(b"\0")
    return found.hexdigest()
