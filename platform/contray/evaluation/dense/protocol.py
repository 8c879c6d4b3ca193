"""An encoder fine-tuned to detect or to segment, or frozen under a head that segments, beside the same network untrained and supervised: same data,
seed, schedule and heads.

No row picks anything: one rate, one length, the last weights. The test images are opened once, at the end of each row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from ...config import RunConfig
from ...errors import ConfigError
from ...model.hardware import loaders
from ...model.seeds import seeded
from .._base import Measured, Show, Subject
from ..common.settings import Dense
from . import detector, frozen, segmenter
from .coco import IGNORE, SCENES, CocoSet, open_sets
from .metrics import Confusion, average_precision, found_in
from .samples import Sample, Wanted, batches, resized, stacked, training_order

MOMENTUM = 0.9
WARMUP = 100  # steps (MoCo's and detectron2's), of short runs a tenth
DROPS = (3 / 4, 11 / 12)  # of the steps: 18 000 and 22 000 of the papers' 24 000 on VOC
SMALLEST = 64  # px: below, the smallest anchors would have no area


@dataclass(frozen=True)
class Task:
    """What is trained on what: "detection" or "segmentation", a head of its Config, and the two parts of a data set."""

    name: str
    head: str
    train: CocoSet
    test: CocoSet
    options: Dense
    flip: float = 0.0  # probability of a horizontal flip in training

    @property
    def masks(self) -> bool:
        return self.name == "segmentation" or self.head == "mask"

    @property
    def size(self) -> int:
        """The shorter side of the images that the network sees, in px."""
        return self.options.size or max(self.train.side, SMALLEST)

    def check(self) -> None:
        """Refuse what the data cannot serve, before anything is trained."""
        options, key = self.options, f"eval.{self.name}"
        if self.masks:
            self.train.check_masks()
            self.test.check_masks()
        if options.batch > len(self.train):
            raise ConfigError(f"{key}.batch", f"got {options.batch}, but there are {len(self.train)} training images")
        if 0 < options.size < SMALLEST:
            raise ConfigError(f"{key}.size", f"got {options.size}, must be 0 or at least {SMALLEST} px")


@dataclass(frozen=True)
class Row:
    """A network to start from: "" the pretrained encoder's, "scratch_", "supervised_"; made when its turn comes. mean, std: of its images.

    steps: how many it takes to make it, which `backbone` tells the function that it is given.
    """

    prefix: str
    backbone: Callable[[Show], nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps: int = 0


def evaluated(name: str, subject: Subject, options: Any) -> Measured:
    """The metrics of detection or segmentation with its options. What cannot be served is refused before anything is trained."""
    from .rows import rows_of

    subject.alone(name)
    rows = rows_of(subject, options, f"eval.{name}.")
    data, train, test = open_sets(options.data, subject.config.data.max_broken)
    task = Task(name, options.head, train, test, options, 0.0 if options.data == SCENES else options.flip)
    task.check()
    metrics = measured(task, rows, subject.config, subject.device, subject.show)
    return Measured(metrics, on="" if options.data == SCENES else data)


def measured(task: Task, rows: list[Row], config: RunConfig, device: torch.device, show: Show) -> dict[str, float]:
    """Of each row, by its prefix: detection_{head}_ap, _ap50 and _ap75 of boxes, of masks detection_mask_segm_ap and so on, or segmentation_{head}_miou.

    All in [0, 1], on the test images. Raises ConfigError where a row diverges.
    """
    total, done = sum(row.steps + task.options.steps for row in rows), 0
    metrics: dict[str, float] = {}

    def shown(message: dict[str, Any], before: int, phase: str) -> None:
        show(message | {"step": before + message["step"], "total": total, "phase": phase})

    for row in rows:
        name = row.prefix.rstrip("_") or "pretrained"
        net = row.backbone(partial(shown, before=done, phase=f"{name} backbone"))
        done += row.steps
        network = build(task, net, row, config).to(device)
        with seeded(config.seed, "dense draws"):  # of proposals and dropout, the same for all rows
            if isinstance(network, frozen.Neighbours):
                remember(task, network, config)
            else:
                train(task, network, config, device, name, partial(shown, before=done, phase=name))
        done += task.options.steps
        metrics |= {f"{row.prefix}{task.name}_{task.head}_{key}": value for key, value in test(task, network, config).items()}
    return metrics


def build(task: Task, net: nn.Module, row: Row, config: RunConfig) -> nn.Module:
    """Fresh heads on a row's network, the same for all rows."""
    classes = len(task.train.classes)
    with seeded(config.seed, "dense heads"):
        if task.head == "linear":
            return frozen.Linear(net, classes + 1, row.mean, row.std)
        if task.head == "knn":
            return frozen.Neighbours(net, classes + 1, row.mean, row.std, getattr(task.options, "k", 1))
        if task.name == "segmentation":
            return segmenter.Segmenter(task.head, net, classes + 1, row.mean, row.std)
        proposals = getattr(task.options, "proposals", 0)  # of detection alone
        return detector.detector(task.head, net, classes, size=task.size, mean=row.mean, std=row.std, proposals=proposals)


def rate(step: int, steps: int) -> float:
    """The rate of a step as a share of its peak: a linear warm-up, then two drops to a tenth each."""
    warmup = min(WARMUP, steps // 10)
    return min(1.0, (step + 1) / (warmup + 1)) * 0.1 ** sum(step >= drop * steps for drop in DROPS)


def losses(task: Task, network: nn.Module, batch: list[Sample], device: torch.device) -> Tensor:
    """The loss of a batch, a scalar: the sum of a detector's four or five, or cross-entropy over the pixels."""
    if task.name == "segmentation":
        pixels, shown = stacked(batch)
        scores = network(_unit(pixels, device))  # (B, C, H, W)
        return F.cross_entropy(scores, shown.to(device).long(), ignore_index=IGNORE)
    targets = [{name: value.to(device) for name, value in each.shown.items()} for each in batch]
    parts: Mapping[str, Tensor] = network([_unit(each.pixels, device) for each in batch], targets)
    return torch.stack(list(parts.values())).sum()


def train(task: Task, network: nn.Module, config: RunConfig, device: torch.device, name: str, show: Show) -> None:
    """SGD on all of the network, with batch statistics, in float32. Raises ConfigError where the loss is no number."""
    options, steps = task.options, task.options.steps
    optimizer = SGD(network.parameters(), lr=options.lr, momentum=MOMENTUM, weight_decay=options.decay)
    order = training_order(config.seed, len(task.train), options.batch, steps, task.flip)
    wanted = Wanted(task.name == "segmentation", task.masks, task.size if task.name == "segmentation" else 0)
    network.train()
    for step, batch in enumerate(batches(task.train, order, wanted, loaders(config))):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * rate(step, steps)
        loss = losses(task, network, batch, device)
        now = loss.item()
        if not math.isfinite(now):
            raise ConfigError(
                f"eval.{task.name}.lr", f"{name} diverged at step {step + 1} with {options.lr:g}; give a smaller one"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        show({"step": step + 1, "loss": now})
    network.eval()


def remember(task: Task, network: frozen.Neighbours, config: RunConfig) -> None:
    """Fill a network of neighbours with tokens of all training images."""
    ids = [(i, False) for i in range(len(task.train))]
    order = [[each] for each in ids]  # as test images are: padded beside a larger one, a ViT would see the padding
    network.eval().fill(batches(task.train, order, Wanted(True, size=task.size), loaders(config)), len(ids), config.seed)


@torch.no_grad()
def test(task: Task, network: nn.Module, config: RunConfig) -> dict[str, float]:
    """ap, ap50, ap75 (of masks with segm_ before them) or miou of a network in evaluation mode, over all test images at their own size."""
    device = next(network.parameters()).device
    ids = [(i, False) for i in range(len(task.test))]
    order = [[each] for each in ids]  # at its own size: the border of a padded image is another than its own
    stream = partial(batches, task.test, order, workers=loaders(config))
    if task.name == "segmentation":
        confusion, side = Confusion(len(task.test.classes) + 1), task.size
        for (sample,) in stream(Wanted(True)):
            pixels = resized(sample.pixels.permute(1, 2, 0).numpy(), side)
            scores = network(_unit(torch.from_numpy(pixels).permute(2, 0, 1)[None], device))  # (1, C, h, w)
            scores = F.interpolate(scores, size=sample.shown.shape, mode="bilinear", align_corners=False)
            confusion.add(scores[0].argmax(0).cpu(), sample.shown)
        return {"miou": confusion.miou()}
    found: list[dict[str, Any]] = []
    for (sample,) in stream(Wanted(False)):
        (prediction,) = network([_unit(sample.pixels, device)])
        found += found_in(task.test, sample.index, prediction)
    scores = average_precision(task.test, found, "bbox")
    if task.masks:
        scores |= {f"segm_{name}": value for name, value in average_precision(task.test, found, "segm").items()}
    return scores


def _unit(pixels: Tensor, device: torch.device) -> Tensor:
    """Bytes as numbers in [0, 1]."""
    return pixels.to(device).float() / 255
