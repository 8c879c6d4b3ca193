"""Whose picture is drawn: a trained encoder and its data.

Legend of shapes: N images, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import data, model
from ..config import RunConfig
from ..config.registry import load_method, method_names
from ..drawing import drawable
from ..evaluation._base import Show
from ..evaluation.common.features import features_of
from ..methods._base import Method, View
from .look import Look
from .preview import as_seen

Image = np.ndarray  # (H, W, 3) uint8


@dataclass(frozen=True)
class Subject:
    """An encoder in evaluation mode, its config and data. images: how many are worked on at most, 0: as the picture has it; by: see `map`."""

    config: RunConfig
    source: data.Source
    method: Method
    device: torch.device
    images: int = 0
    by: str = "tsne"
    show: Show = lambda message: None  # is told how far one is
    channels: tuple[int, ...] = ()  # that are shown of images of more than three: see Look.of

    @property
    def name(self) -> str:
        """Method, preset and data set, for titles."""
        method = self.config.method
        return drawable(f"{Path(method.name).stem} {method.preset} on {Path(self.source.name).name}")

    @cached_property
    def look(self) -> Look:
        """How the images are shown."""
        return Look.of(self.config, self.source.train, self.channels)

    @property
    def views(self) -> dict[str, View]:
        """What `encode` takes."""
        return type(self.method).eval_views(self.config.views)

    def asked(self) -> tuple[data.Split, np.ndarray, str]:
        """Images that training did not see: a split, ids of it, and their name. Held-out training images where there is no test set."""
        if self.source.test is not None:
            return self.source.test, np.arange(len(self.source.test)), "test images"
        held = data.holdout(self.source.train, self.config.eval.holdout, self.config.seed)[1]
        return self.source.train, held, "training images"

    def searched(self) -> np.ndarray:
        """Ids of training images; without those of `asked`."""
        if self.source.test is not None:
            return self.source.train.known
        return data.holdout(self.source.train, self.config.eval.holdout, self.config.seed)[0]

    def limited(self, split: data.Split, ids: np.ndarray, limit: int) -> np.ndarray:
        """As many of the ids as are asked for, or `limit`: of each class its share, as far as there are labels."""
        return data.part(ids, split.labels, self.images or limit, self.config.seed, "pictures")

    def features(self, split: data.Split, ids: Sequence[int] | np.ndarray) -> tuple[Tensor, np.ndarray]:
        """(N, D) on the CPU, and the (N,) ids that they are of: images that cannot be read are left out."""
        features, kept = features_of(self.config, self.method, split, ids, self.device, self.show)
        return features, kept.numpy()

    def drawn(
        self, split: data.Split, ids: Sequence[int] | np.ndarray, views: Mapping[str, View], size: int = 0
    ) -> data.EvalImages:
        """Batches of these views of the images, of eval.batch_size or `size` of them. Raises DataError where none can be read."""
        return data.EvalImages(split, views, np.asarray(ids, np.int64), size or self.config.eval.batch_size)

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch's views, normalised on the device."""
        normalise = model.normaliser(self.config, self.device)
        return {name: normalise(torch.as_tensor(view)) for name, view in batch.items()}

    def pictures(self, split: data.Split, ids: Sequence[int] | np.ndarray) -> dict[int, Image]:
        """The images by their ids, as the encoder sees them (the first of its inputs)."""
        name, view = next(iter(self.views.items()))
        batches = self.drawn(split, ids, {name: view})
        return {
            int(i): as_seen(pixels, view, self.look)
            for batch in batches
            for i, pixels in zip(batch["index"], batch["views"][name].numpy(), strict=True)
        }


def apart(ids: np.ndarray, count: int) -> np.ndarray:
    """`count` of the ids, from the middles of as many parts of equal length; all where there are no more."""
    count = min(count, len(ids))
    return ids[((np.arange(count) + 0.5) * len(ids) / max(count, 1)).astype(np.int64)]


def offering(name: str) -> str:
    """The built-in methods that have a method of this name, in words: for the error of one that has none."""
    have = [each for each in method_names() if getattr(load_method(each).method, name) is not getattr(Method, name)]
    return f"{', '.join(have)} can be drawn so"
