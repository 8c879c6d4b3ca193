"""Labelled images as the evaluations that train want them: checked, cropped at random, and counted when they are classified right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ... import data, model
from ...config import RunConfig
from ...config.registry import load_method
from ...errors import DataError
from ...methods._base import Batch, View
from ...model.hardware import loaders
from .features import images_of

Inputs = Mapping[str, Tensor]


def cropped_views(config: RunConfig, crop: tuple[float, float] | None = None) -> dict[str, View]:
    """The evaluation inputs with random resized crop and flip in place of the centre crop; inputs of one sample share them.

    Crop and flip are those of the method's first training view (on digits a flip would make other digits), the crop's area
    eval.crop's where that is set, else `crop` where it is given. No colours: no linear-evaluation recipe of our methods changes
    them, and of fine-tuning recipes MAE's alone.
    """
    drawn = next(iter(config.views.values()))
    crop = (crop or drawn.crop) if config.eval.crop == (0.0, 0.0) else config.eval.crop
    geometry = {"crop": crop, "ratio": drawn.ratio, "flip": drawn.flip, "interpolation": drawn.interpolation}
    views = load_method(config.method.name).method.eval_views(config.views)
    return {name: dataclasses.replace(view, **geometry, geometry="evaluation") for name, view in views.items()}


class CroppedImages:
    """Random crops of the samples `ids` in full batches: every pixel is a pure function of (seed, epoch, sample).

    views: instead of `cropped_views`; labels: (N,) or probabilities (N, C) of the split's samples, instead of its own labels.
    """

    def __init__(
        self,
        config: RunConfig,
        split: data.Split,
        ids: np.ndarray,
        batch_size: int,
        device: torch.device,
        views: Mapping[str, View] | None = None,
        labels: Tensor | None = None,
    ) -> None:
        self.config, self.device = config, device
        self.labels = torch.as_tensor(split.labels) if labels is None else labels
        self.batches = data.GlobalBatches(
            split, views or cropped_views(config), strength=1.0, batch_size=min(batch_size, len(ids)), seed=config.seed,
            max_broken=config.data.max_broken, ids=ids, fixed=True, window=data.window(config.data),
        )  # fmt: skip

    @property
    def batch_size(self) -> int:
        return self.batches.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    def __call__(self, steps: int) -> Iterator[tuple[Batch, Tensor]]:
        """The first `steps` batches, each with its labels (B,) or probabilities (B, C), on the device."""
        normalise = model.normaliser(self.config, self.device)
        slots, pin = range(self.batch_size), self.device.type == "cuda"
        self.batches.split.prepare()
        workers = loaders(self.config, held=self.batches.split.decoded)
        with closing(data.loader(self.batches, range(steps), slots, workers=workers, pin=pin)) as stream:  # pyright: ignore[reportArgumentType]
            for step, drawn in enumerate(stream):
                views = {name: normalise(view) for name, view in drawn["views"].items()}
                index, slot = drawn["index"], drawn["slot"].to(self.device)
                yield (
                    Batch(views, index, slot, self.batch_size, seed=self.config.seed, step=step),
                    self.labels[index].to(self.device),
                )


def first_inputs(config: RunConfig, split: data.Split, ids: np.ndarray, device: torch.device) -> Inputs:
    """The evaluation inputs of one image: they tell widths, and whether the encoder has what is asked of it."""
    normalise = model.normaliser(config, device)
    images = images_of(config, split, ids)
    images.workers = 0  # for one image
    batch = next(iter(images))
    return {name: normalise(torch.as_tensor(view[:1])) for name, view in batch["views"].items()}


@torch.no_grad()
def score(
    config: RunConfig,
    split: data.Split,
    ids: Sequence[int] | np.ndarray,
    classify: Callable[[Inputs], Tensor],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Top-1 in [0, 1] and mean cross-entropy in nats of P classifiers on the evaluation inputs of `ids`: (P,) each, float64.

    classify: inputs of B images -> class scores (P, B, C). Scores that are not finite count as wrong.
    """
    normalise = model.normaliser(config, device)
    labels = torch.as_tensor(split.labels)
    hits, loss, seen = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0
    for batch in images_of(config, split, ids):
        inputs = {name: normalise(torch.as_tensor(view)) for name, view in batch["views"].items()}
        with model.autocast(config, device):
            scores = classify(inputs).cpu().double()  # (P, B, C)
        y = labels[batch["index"]]
        hits = hits + ((scores.argmax(-1) == y) & scores.isfinite().all(-1)).double().sum(1)
        loss = loss + torch.stack([F.cross_entropy(each, y, reduction="sum") for each in scores])
        seen += len(y)
    if not seen:
        raise DataError("data.source: none of the images that select or test can be read")
    return hits / seen, loss / seen
