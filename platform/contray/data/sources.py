"""Data sources by name or path: the built-in digits, torchvision's named sets, folders of images, Parquet."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from ..errors import ConfigError, DataError, nearest
from ..sections import DataConfig
from .splits import ArraySplit, EncodedSplit, Split, digest

NAMES = ("digits", "cifar10", "cifar100", "stl10")
PIPELINE = "3"  # raised whenever the same key gives other pixels
_LIBRARIES = ("numpy", "albumentations", "torch", "torchvision")  # OpenCV goes by many package names


@dataclass(frozen=True)
class Source:
    """A data set: what trains, and what tests where there is any."""

    name: str
    train: Split
    test: Split | None

    def __post_init__(self) -> None:
        if isinstance(self.train, EncodedSplit) and isinstance(self.test, EncodedSplit):
            self.test.scale_as(self.train)


def open_source(config: DataConfig) -> Source:
    """Find `data.source`, check its layout and read its labels, but decode nothing yet.

    Raises ConfigError or DataError, one line each: no such source, an empty one, a missing column or set.
    """
    name = config.source
    if name == "digits":
        from .digits import open_digits

        return Source(name, *open_digits(config))
    if name in NAMES:
        return Source(name, *_torchvision(name, config))
    path = Path(name).expanduser()
    if not path.exists():
        looks_like_path = len(path.parts) > 1 or path.suffix
        what = f"{name} does not exist" if looks_like_path else f"{name!r} is neither a built-in set nor a file or folder"
        raise ConfigError("data.source", f"{what}; {nearest(name, NAMES)}")
    from .parquet import open_parquet, parquet_files

    files = parquet_files(path)
    if files:
        return Source(path.stem or name, *open_parquet(path, files, config))
    from .folder import open_folder

    return Source(path.resolve().name, *open_folder(path, config.cache_gb))


def fingerprint(source: Source, config: DataConfig) -> dict[str, str]:
    """What the pixels depend on besides the config of the run: library versions, this pipeline's, the data's content.

    Two runs with equal fingerprints and equal configs draw equal pixels; the place where the data lies is no part of it.
    """
    splits = [split.content() for split in (source.train, source.test) if split is not None]
    libraries = {name: version(name) for name in _LIBRARIES}
    return {**libraries, "opencv": cv2.__version__, "pipeline": PIPELINE, "data": digest(splits, config.image_column)}


def _torchvision(name: str, config: DataConfig) -> tuple[ArraySplit, ArraySplit]:
    """STL-10's 100 000 unlabelled images are left out: every training sample has a label."""
    from torchvision import datasets

    def load(test: bool) -> ArraySplit:
        part = "test" if test else "train"
        try:
            if name == "stl10":
                found = datasets.STL10(config.root, split=part, download=config.download)
                return ArraySplit(f"stl10 {part}", found.data.transpose(0, 2, 3, 1), np.asarray(found.labels), found.classes)
            kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
            cifar = kind(config.root, train=not test, download=config.download)
        except (RuntimeError, OSError) as error:
            if config.download:
                raise DataError(
                    f"data.source: {name} could not be downloaded to {config.root}: {str(error).splitlines()[0]}"
                ) from error
            raise DataError(f"data.source: {name} is not under {config.root}; get it with --data.download true") from error
        return ArraySplit(f"{name} {part}", cifar.data, np.asarray(cifar.targets), cifar.classes)

    return load(False), load(True)
