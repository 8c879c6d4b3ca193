"""torchvision's named sets, from data.root: cifar10, cifar100, stl10, and stl10_unlabelled, whose 100,000 images pretrain before stl10 evaluates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..config.sections import DataConfig
from ..errors import DataError
from .splits import ArraySplit, Source


def open_source(config: DataConfig, own: None) -> Source:
    """Open `data.source`. Raises DataError where it is not there."""
    name = config.source
    if name == "stl10_unlabelled":
        return Source(name, _stl10(name, "unlabeled", config), None)
    load = _stl10 if name == "stl10" else _cifar
    return Source(name, load(name, "train", config), load(name, "test", config))


def _cifar(name: str, part: str, config: DataConfig) -> ArraySplit:
    from torchvision import datasets

    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    with _there(name, config):
        found = kind(config.root, train=part == "train", download=config.download)
    return _split(f"{name} {part}", found.data, found.targets, found.classes, config)


def _stl10(name: str, part: str, config: DataConfig) -> ArraySplit:
    """The pixels are mapped, not held: those of the 100,000 unlabelled images are 2.8 GB."""
    from torchvision import datasets

    with _there(name, config):
        found = datasets.STL10(config.root, split="test", download=config.download)  # fetches, and holds the sums of, all parts
        folder = Path(found.root) / found.base_folder
        stored = np.memmap(folder / f"{part}_X.bin", np.uint8, "r")
    images = stored.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)  # (N, 96, 96, 3); the file has columns before rows
    labels = None if part == "unlabeled" else np.fromfile(folder / f"{part}_y.bin", np.uint8).astype(np.int64) - 1
    return _split(f"{name} {part}", images, labels, found.classes, config)


def _split(name: str, images: np.ndarray, labels: Any, classes: Sequence[str], config: DataConfig) -> ArraySplit:
    known = labels is not None and config.label_column
    return ArraySplit(name, images, np.asarray(labels) if known else None, classes if known else [])


@contextmanager
def _there(name: str, config: DataConfig) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        if config.download:
            raise DataError(
                f"data.source: {name} could not be downloaded to {config.root}: {str(error).splitlines()[0]}"
            ) from error
        raise DataError(f"data.source: {name} is not under {config.root}; get it with --data.download true") from error
