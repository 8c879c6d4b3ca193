"""Splits: the images of one part of a data source, by sample id.

Forked loader processes share a split's memory, so `prepare` (decode once) is called before they start.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np

from ..errors import DataError
from .digests import digest, lots_of
from .encoded import Encoded, Read
from .form import RGB, Form
from .pixels import BrokenImage, Depth, Pixels
from .progress import progress
from .shards import Shards

_PAUSES = (0.1, 0.5, 2.0)  # seconds between the tries of a read that failed
_SURVEYED = 64  # images that tell what range a set's values have


class Split:
    """Images by sample id in [0, len). Subclasses say where the pixels come from: `__len__` and `image` at least.

    labels: (N,) int64, or None; classes: their names. groups: (N,) ids of samples that a hold-out must not separate, or None.
    generated: whether `image` draws a fresh picture from its rng, so that two views of a sample need two calls.
    decoded: whether all images are held decoded, so that reading them again is no work.
    """

    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    generated = False
    channels = 0  # as data.channels: of images as their files have them; 0: RGB of 8 bits
    decoded = False
    columns: Mapping[str, str] = {"image": "image"}  # column -> image, array or text
    absent: Mapping[str, str] = {}  # column that no view can be drawn from -> why

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = list(classes)
        self.broken: dict[int, str] = {}  # ids and reasons that `prepare` found
        self.met: dict[int, str] = {}  # ids and reasons that evaluations met

    def __len__(self) -> int:
        raise NotImplementedError

    def image(self, i: int, rng: np.random.Generator | None) -> np.ndarray:
        """(H, W, 3) uint8 RGB, or (H, W, channels) uint8 or float32 in [0, 1]. Raises BrokenImage, or OSError where reading fails time and again."""
        raise NotImplementedError

    def value(self, i: int, column: str, rng: np.random.Generator | None) -> Any:
        """What a column holds: an image as `image` gives it, an array (C, T) float32, or a text."""
        if column != "image":
            raise KeyError(column)
        return self.image(i, rng)

    def describe(self, i: int) -> str:
        """The file or row of a sample, for messages."""
        return f"sample {i}"

    def key(self, i: int) -> str:
        """What a sample is called among the split's, wherever the data lie."""
        return str(i)

    def lots(self) -> np.ndarray:
        """(N,) float64 in [0, 1): even numbers that samples are drawn by, each of its key alone, so that they stay where others come or go."""
        return lots_of(self.key(i) for i in range(len(self)))

    def all_keys(self) -> Iterator[str]:
        """`key` of all, in order."""
        return map(self.key, range(len(self)))

    @property
    def known(self) -> np.ndarray:
        """Ids of the samples whose label is known: all, but where data.labels names some; the others' labels are -1 then."""
        return np.arange(len(self)) if self.labels is None else np.flatnonzero(self.labels >= 0)

    def content(self) -> str:
        """A digest of what the split holds, cheap beside training: changes when images are added, taken away or replaced by others.

        This one reads labels, names and 256 images from all over the set: a subclass whose images change singly gives a better one.
        """
        found: list[object] = [len(self), self.labels, self.classes]
        for i in np.linspace(0, len(self) - 1, min(len(self), 256)).round().astype(int).tolist():
            try:
                found.append(np.ascontiguousarray(self.image(i, None)))
            except BrokenImage:
                found.append(self.describe(i))
        return digest(*found)

    def expect(self, ids: Sequence[int]) -> None:
        """These are asked for next, in this process: where each answer takes long, many are asked for at a time."""

    def prepare(self) -> None:
        """Decode once, where that pays; the pixels are the same without it."""

    def shards(self) -> Shards | None:
        """How the samples lie together, in a set that is read in shards; None of others."""
        return None

    def notes(self) -> Sequence[str]:
        """What one should know of how the files become pixels, a line each: the range of their values, what of them is not used."""
        return ()


class ArraySplit(Split):
    """Decoded images in memory, or mapped: (N, H, W, 3) uint8, or of other `channels` uint8 or float32 in [0, 1]. Raises DataError for others.

    labels: (N,) numbers of the classes, or None.
    """

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray | None, classes: Sequence[str]) -> None:
        super().__init__(classes)
        if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
            raise DataError(f"data.source: {name}: images are {images.dtype} {images.shape}, must be uint8 (N, H, W, 3)")
        self.channels = 0 if images.dtype == np.uint8 and images.shape[3] == 3 else images.shape[3]
        if labels is not None and labels.dtype.kind not in "iu":
            raise DataError(f"data.source: {name}: labels are {labels.dtype}, must be integers: numbers of the classes, from 0")
        self.name, self.images, self.decoded = name, images, True
        self.labels = None if labels is None else labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int, rng: np.random.Generator | None) -> np.ndarray:
        return self.images[i]

    def describe(self, i: int) -> str:
        return f"{self.name} image {i}"

    def content(self) -> str:
        some = (np.ascontiguousarray(self.images[start : start + 256]) for start in range(0, len(self), 256))
        return digest(self.images.shape, *map(digest, some), self.labels)


class EncodedSplit(Split):
    """Encoded images, decoded at each access or, where the decoded set fits `memory_gb`, once by `prepare`."""

    def __init__(
        self,
        encoded: Encoded,
        memory_gb: float,
        labels: np.ndarray | None = None,
        classes: Sequence[str] = (),
        others: Mapping[str, tuple[str, Callable[[int], Any]]] | None = None,
        shorter_side: int = 0,
    ) -> None:
        """others: columns besides the image: name -> (kind, read), where `read(i)` gives encoded bytes, an array or a text.

        shorter_side: px to which all images are reduced as they are decoded; 0: they stay as large as they are.
        """
        super().__init__(classes)
        self.encoded, self.memory_gb, self.labels, self.shorter_side = encoded, memory_gb, labels, shorter_side
        self.others = others or {}
        self.columns = {"image": "image"} | {name: kind for name, (kind, _) in self.others.items()}
        self.form = RGB
        self._prepared = False
        self._cache: np.ndarray | list[np.ndarray | None] | None = None
        self._surveyed: dict[str, Pixels] = {}
        self._like: EncodedSplit | None = None

    def __len__(self) -> int:
        return self.encoded.count

    def describe(self, i: int) -> str:
        return self.encoded.describe(i)

    def key(self, i: int) -> str:
        return self.encoded.key(i)

    def expect(self, ids: Sequence[int]) -> None:
        if self.encoded.expect is not None and self._cache is None:
            self.encoded.expect(ids)

    def lots(self) -> np.ndarray:
        return super().lots() if self.encoded.lots is None else self.encoded.lots()

    def shards(self) -> Shards | None:
        found = None if self.encoded.shards is None else self.encoded.shards()
        return found if found is None or self._cache is None else found.held()

    def subset(self, ids: np.ndarray) -> EncodedSplit:
        """These samples, by their places among the ids, which ascend."""
        others = {name: (kind, lambda i, read=read: read(int(ids[i]))) for name, (kind, read) in self.others.items()}
        labels = None if self.labels is None else self.labels[ids]
        part = EncodedSplit(self.encoded.subset(ids), self.memory_gb, labels, self.classes, others, self.shorter_side)
        part.absent = self.absent
        part.take(self.form)
        return part

    def take(self, form: Form) -> None:
        """What the images become, which is RGB of 8 bits until this is said; before the first is read."""
        self.form, self.channels, self._surveyed = form, form.channels, {}

    def content(self) -> str:
        depth = self.depth("image")
        channels = [self.channels] if self.channels else []
        pixels = [
            *channels,
            *([] if depth is None else [depth]),
            *([self.shorter_side] if self.shorter_side else []),
            *([self.form.reduce] if self.form.reduce != "area" else []),
        ]
        return digest(len(self), self.encoded.content(), self.labels, self.classes, *pixels)

    def scale_as(self, other: EncodedSplit) -> None:
        """Take the range of values of more than 8 bits from another split, the training set's."""
        self._like = other

    def depth(self, column: str) -> Depth | None:
        """The range of a column's images of more than 8 bits; None where a sample has none."""
        if self.form.range:
            return self.form.given
        if self._like is not None and self._like.columns.get(column) == "image":
            return self._like.depth(column)
        return self._pixels_of(column).depth

    def notes(self) -> Sequence[str]:
        return self._pixels_of("image").notes

    def _pixels_of(self, column: str) -> Pixels:
        if column not in self._surveyed:
            self._surveyed[column] = self.form.survey((self.describe(i), data) for i, data in self._samples(_SURVEYED, column))
        return self._surveyed[column]

    def image(self, i: int, rng: np.random.Generator | None) -> np.ndarray:
        if i in self.broken:
            raise BrokenImage(self.describe(i), self.broken[i])
        if self._cache is not None:
            return self._cache[i]  # type: ignore[return-value]
        return self._decode(i, self._read(i))

    def value(self, i: int, column: str, rng: np.random.Generator | None) -> Any:
        """Columns besides the image are read, and images among them decoded, at each access."""
        if column == "image":
            return self.image(i, rng)
        kind, read = self.others[column]
        found = read(i)
        if found is None or (kind == "text" and not found.strip()) or (kind == "array" and not found.size):
            raise BrokenImage(self.describe(i), f"column {column!r} is empty")
        return self._decode(i, found, column) if kind == "image" else found

    def prepare(self) -> None:
        if self._prepared:
            return
        self._prepared = True
        limit = self.memory_gb * 1e9
        if self.decoded_bytes() > limit:
            return
        cache: np.ndarray | list[np.ndarray | None] | None = None
        held = 0
        with closing(self._decode_all()) as images:
            for i, image in enumerate(images):
                if image is None:
                    continue
                held += image.nbytes
                if held > limit:  # a few huge images that the sample had not shown
                    return
                if cache is None:  # images of one size, as most small sets have, go into one array
                    cache = [None for _ in range(len(self))]
                    if len(self) * image.nbytes <= limit:
                        cache = np.zeros((len(self), *image.shape), image.dtype)
                if isinstance(cache, np.ndarray):
                    if image.shape == cache.shape[1:]:
                        cache[i] = image
                        continue
                    cache = [*(row.copy() for row in cache[:i]), *(None for _ in range(len(self) - i))]
                cache[i] = image
        self._cache, self.decoded = cache, True
        self.encoded.close()

    def decoded_bytes(self) -> float:
        """Size of the decoded set, from the sizes of some images."""
        found = [self._decode_or_note(i, lambda data=data: data) for i, data in self._samples(16)]
        sizes = [image.nbytes for image in found if image is not None]
        return float(np.mean(sizes)) * len(self) if sizes else 0.0

    def _samples(self, count: int, column: str = "image") -> Iterator[tuple[int, bytes | memoryview]]:
        """(id, encoded bytes) of about `count` images from all over the set; what cannot be read is left out."""
        if column == "image" and self.encoded.sample is not None:
            yield from ((i, data) for i, data in self.encoded.sample(count) if data)
            return
        found, failed = False, None
        for i in np.unique(np.linspace(0, len(self) - 1, count).astype(int)).tolist():
            try:
                data = self._read(i) if column == "image" else self.others[column][1](i)
            except BrokenImage:
                continue
            except OSError as error:  # one of them says nothing; where none can be read, the disk is to blame
                failed = error
                continue
            if data:
                found = True
                yield i, data
        if failed is not None and not found:
            raise failed

    def _decode_all(self) -> Generator[np.ndarray | None, None, None]:
        """All images in order, None for broken ones. Few chunks are under way at once, so that what waits is bounded."""
        waiting: deque[Future[list[np.ndarray | None]]] = deque()
        with ThreadPoolExecutor() as pool, progress("decoding images", len(self)) as advance:
            most = 2 * pool._max_workers
            for chunk in chain(self._chunks(), [None] * most):
                if chunk is not None:
                    waiting.append(pool.submit(lambda chunk=chunk: [self._decode_or_note(*each) for each in chunk]))
                if waiting and (chunk is None or len(waiting) > most):
                    images = waiting.popleft().result()
                    yield from images
                    advance(len(images))

    def _chunks(self) -> Iterator[list[tuple[int, Read | None]]]:
        """(id, how to read it) in order, 64 at once: the thread that decodes reads too."""
        own = self.encoded.stream
        each: Iterator[tuple[int, Read | None]]
        each = enumerate(own()) if own else ((i, None) for i in range(len(self)))
        while True:
            chunk: list[tuple[int, Read | None]] = list(islice(each, 64))
            if not chunk:
                return
            yield chunk

    def _decode_or_note(self, i: int, read: Read | None = None) -> np.ndarray | None:
        try:
            return self._decode(i, self._read(i, read))
        except BrokenImage as broken:
            self.broken[i] = broken.reason
            return None

    def _decode(self, i: int, data: bytes | memoryview | None, column: str = "image") -> np.ndarray:
        where = self.describe(i)
        return self.form.decode(data, where, lambda: self.depth(column), self.shorter_side)

    def _read(self, i: int, read: Read | None = None) -> bytes | memoryview | None:
        """The encoded bytes, by `read` if given; a read that fails is tried again, a file that is gone counts as broken."""
        for pause in (*_PAUSES, None):
            try:
                return self.encoded.read(i) if read is None else read()
            except FileNotFoundError as error:
                raise BrokenImage(self.describe(i), "the file is gone") from error
            except OSError as error:
                if pause is None:
                    error.filename = error.filename or self.describe(i)
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")


@dataclass(frozen=True)
class Source:
    """A data set: what trains, and what tests where there is any. notes: what was taken for what, and what was left out and why.

    tested: in words, what was set aside as a test set of a source that has none. listed: a digest of what data.labels says, if anything.
    """

    name: str
    train: Split
    test: Split | None
    notes: list[str] = field(default_factory=list)
    tested: str = ""
    listed: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.train, EncodedSplit) and isinstance(self.test, EncodedSplit):
            self.test.scale_as(self.train)
