"""torchvision's named sets: cifar10, cifar100, stl10, from data.root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config.sections import DataConfig
from ..errors import DataError
from .splits import ArraySplit, Source


def open_source(config: DataConfig, own: None) -> Source:
    """Read both parts of `data.source`. Raises DataError where it is not there."""
    return Source(config.source, *_parts(config.source, config))


def _parts(name: str, config: DataConfig) -> tuple[ArraySplit, ArraySplit]:
    """STL-10's 100 000 unlabelled images are left out: every training sample has a label."""
    from torchvision import datasets

    def split(part: str, images: np.ndarray, labels: Any, classes: Sequence[str]) -> ArraySplit:
        known = bool(config.label_column)
        return ArraySplit(f"{name} {part}", images, np.asarray(labels) if known else None, classes if known else [])

    def load(test: bool) -> ArraySplit:
        part = "test" if test else "train"
        try:
            if name == "stl10":
                found = datasets.STL10(config.root, split=part, download=config.download)
                return split(part, found.data.transpose(0, 2, 3, 1), found.labels, found.classes)
            kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
            cifar = kind(config.root, train=not test, download=config.download)
        except (RuntimeError, OSError) as error:
            if config.download:
                raise DataError(
                    f"data.source: {name} could not be downloaded to {config.root}: {str(error).splitlines()[0]}"
                ) from error
            raise DataError(f"data.source: {name} is not under {config.root}; get it with --data.download true") from error
        return split(part, cifar.data, cifar.targets, cifar.classes)

    return load(False), load(True)
