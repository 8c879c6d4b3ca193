"""What the records of a set add up to: sizes, kinds of files, classes, channel statistics, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import shown
from .gather import Looked
from .records import FORMATS, MODES


@dataclass(frozen=True)
class Sizes:
    """Smallest, median and largest, in px; aspect: longer side over shorter one. shorter, megapixels: for histograms, of all images."""

    width: tuple[int, int, int] = (0, 0, 0)
    height: tuple[int, int, int] = (0, 0, 0)
    side: tuple[int, int, int] = (0, 0, 0)
    aspect: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shorter: np.ndarray = field(default_factory=lambda: np.empty(0, int), repr=False, compare=False)

    @classmethod
    def of(cls, records: np.ndarray) -> Sizes:
        if not len(records):
            return cls()
        width, height = records["width"].astype(int), records["height"].astype(int)
        shorter, longer = np.minimum(width, height), np.maximum(width, height)
        aspect = longer / np.maximum(shorter, 1)
        low, middle, high = np.quantile(aspect, (0, 0.5, 1)).round(2).tolist()
        return cls(_three(width), _three(height), _three(shorter), (low, middle, high), shorter)


def _three(values: np.ndarray) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())


@dataclass(frozen=True)
class Part:
    """A split. looked: images that were looked at, of `images`; nbytes: of their files; decoded: of their pixels as training reads them.

    kinds: how many files are of which format, mode and depth, in words.
    """

    name: str
    images: int
    looked: int
    broken: int
    nbytes: int
    decoded: int
    sizes: Sizes
    kinds: dict[str, int]

    @classmethod
    def of(cls, found: Looked) -> Part:
        read = found.records[found.read]
        triples = Counter(zip(*(read[name].tolist() for name in ("format", "mode", "bits")), strict=True))
        kinds = Counter[str]()
        for (kind, mode, bits), count in triples.items():
            kinds[" ".join(filter(None, (FORMATS[kind], MODES[mode], f"{bits} bit" if bits else ""))) or "pixels in memory"] += (
                count
            )
        nbytes, decoded = (int(found.records[name].sum()) for name in ("nbytes", "decoded"))
        return cls(
            found.name,
            len(found.split),
            len(found.ids),
            len(found.broken),
            nbytes,
            decoded,
            Sizes.of(read),
            dict(kinds.most_common()),
        )


@dataclass(frozen=True)
class Classes:
    """Images of each class by split, in the order of the classes; test is empty where there are no test labels."""

    names: list[str]
    train: list[int]
    test: list[int]

    @classmethod
    def of(cls, found: Sequence[Looked]) -> Classes | None:
        if found[0].labels is None:
            return None
        names = [shown(name) for name in found[0].split.classes]
        counts = [_counts(each, len(names)) for each in found]
        return cls(names, counts[0], counts[1] if len(counts) > 1 else [])

    @property
    def ratio(self) -> float:
        """The largest class over the smallest one that has an image."""
        some = [count for count in self.train if count]
        return max(some) / min(some) if some else 1.0

    @property
    def effective(self) -> float:
        """(sum n)^2 / sum n^2: so many classes of one size would be as uneven as these are."""
        squares = sum(count**2 for count in self.train)
        return sum(self.train) ** 2 / squares if squares else 0.0

    @property
    def empty(self) -> list[str]:
        """Classes without a training image."""
        return [name for name, count in zip(self.names, self.train, strict=True) if not count]

    @property
    def untested(self) -> list[str]:
        """Classes that train and have no test image, where others have."""
        return [name for name, count, tested in zip(self.names, self.train, self.test, strict=False) if count and not tested]


def _counts(found: Looked, classes: int) -> list[int]:
    labels = found.labels
    return [] if labels is None else np.bincount(labels[labels >= 0], minlength=classes).tolist()


@dataclass(frozen=True)
class Channels:
    """Of the readable training images that were looked at, each weighing the same whatever its size, as in training, of values in [0, 1]:
    mean is the mean over images of an image's mean; std the root of the mean over images of its mean square, less the mean's square.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int

    @classmethod
    def of(cls, found: Looked) -> Channels | None:
        read = found.read
        if not read.any():
            return None
        mean, square = found.records["mean"][read].mean(0), found.records["square"][read].mean(0)
        std = np.sqrt(np.maximum(square - mean**2, 0))
        return cls(tuple(mean.tolist()), tuple(std.tolist()), int(read.sum()))

    @property
    def keys(self) -> str:
        """To be pasted behind `contray train`; empty where a channel is the same everywhere."""
        if min(self.std) < 1e-4 or len(self.mean) != 3:
            return ""
        mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (self.mean, self.std))
        return f"--augment.mean {mean} --augment.std {std}"
