"""Images of a COCO set as detectors and segmenters are fed them, each read when its batch is due."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...data import permutation
from ...data.batches import one_thread, quiet_start
from ...data.draws import generator
from ...errors import UserError
from .coco import IGNORE, CocoSet


@dataclass(frozen=True)
class Sample:
    """Image `index` of its set: pixels (3, H, W) uint8, and what it shows: torchvision's target of a detector, or classes (H, W) uint8."""

    index: int
    pixels: Tensor
    shown: Any


@dataclass(frozen=True)
class Wanted:
    """What samples carry. size: shorter side that images and classes are resized to, 0: as they are (detectors resize by themselves)."""

    classes: bool
    masks: bool = False
    size: int = 0


class _Samples(Dataset):
    """By (index, flip). What a user can mend comes back as a value: torch would wrap it into a traceback."""

    def __init__(self, part: CocoSet, wanted: Wanted) -> None:
        self.part, self.wanted = part, wanted

    def __getitem__(self, place: tuple[int, bool]) -> Sample | UserError:
        try:
            return self.load(*place)
        except UserError as error:
            return error

    def load(self, i: int, flip: bool) -> Sample:
        pixels = self.part.image(i)
        if self.wanted.classes:
            shown = self.part.semantic(i)
            pixels, shown = (resized(each, self.wanted.size) for each in (pixels, shown))
            pixels, shown = (np.ascontiguousarray(each[:, ::-1] if flip else each) for each in (pixels, shown))
            return Sample(i, torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(shown))
        objects = self.part.objects(i, self.wanted.masks)
        boxes, masks = objects.boxes, objects.masks
        if flip:
            pixels, width = pixels[:, ::-1], pixels.shape[1]
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
            masks = None if masks is None else masks[:, :, ::-1]
        shown = {"boxes": boxes, "labels": objects.labels} | ({} if masks is None else {"masks": masks})
        target = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in shown.items()}
        return Sample(i, torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1), target)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) or classes (H, W), the shorter side at `size` px unless the longer would exceed 1333 / 800 of it; 0: as it is."""
    height, width = image.shape[:2]
    scale = min(size / min(height, width), size * 1333 / 800 / max(height, width))
    new = max(1, round(width * scale)), max(1, round(height * scale))
    if not size or new == (width, height):
        return image
    return cv2.resize(image, new, interpolation=cv2.INTER_LINEAR if image.ndim == 3 else cv2.INTER_NEAREST)


def training_order(seed: int, count: int, batch: int, steps: int, flip: float) -> list[list[tuple[int, bool]]]:
    """(image, whether it is flipped) of each batch: whole epochs in random order, the tail of each dropped."""
    per_epoch = count // batch
    order = []
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            ids = permutation(seed, epoch, count)
            flips = generator(seed, "dense flips", epoch).random(count) < flip
        own = ids[place * batch : (place + 1) * batch]
        order.append([(int(i), bool(flips[i])) for i in own])
    return order


def batches(part: CocoSet, order: list[list[tuple[int, bool]]], wanted: Wanted, workers: int) -> Iterator[list[Sample]]:
    """The batches of `order`, read ahead by `workers` forked processes (0: in this one). Raises UserError where an image cannot be read."""
    options: dict[str, Any] = {"generator": torch.Generator()}  # else torch seeds the processes from the global one
    if workers:
        options |= {"num_workers": workers, "multiprocessing_context": "fork", "worker_init_fn": one_thread}
    with quiet_start():
        stream = iter(DataLoader(_Samples(part, wanted), batch_sampler=order, collate_fn=list, **options))
    for batch in stream:
        problem = next((each for each in batch if isinstance(each, UserError)), None)
        if problem is not None:
            raise problem
        yield batch


def stacked(batch: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, H, W) and classes (B, H, W), padded below and to the right to the largest of the batch; padding counts for no class."""
    height, width = (max(each.pixels.shape[axis] for each in batch) for axis in (1, 2))

    def padded(x: Tensor, value: int) -> Tensor:
        return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), value=value)

    return torch.stack([padded(each.pixels, 0) for each in batch]), torch.stack([padded(each.shown, IGNORE) for each in batch])
