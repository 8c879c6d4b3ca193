"""An encoder fine-tuned to detect or to segment, beside the same network untrained and supervised: same data, seed, schedule and heads.

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
from ...config.sections import EvalConfig
from ...errors import ConfigError, UserError, nearest
from ...model.seeds import seeded
from ..labelled import Show
from . import detector, segmenter
from .coco import IGNORE, CocoSet
from .metrics import Confusion, average_precision, found_in
from .samples import Sample, Wanted, batches, resized, stacked, training_order

MOMENTUM = 0.9
WARMUP = 100  # steps (MoCo's and detectron2's), of short runs a tenth
DROPS = (3 / 4, 11 / 12)  # of the steps: 18 000 and 22 000 of the papers' 24 000 on VOC
SMALLEST = 64  # px: below, the smallest anchors would have no area

HEADS = {"detection": detector.HEADS, "segmentation": segmenter.HEADS}


@dataclass(frozen=True)
class Task:
    """What is trained on what: "detection" or "segmentation", a head of HEADS, and the two parts of a data set."""

    name: str
    head: str
    train: CocoSet
    test: CocoSet
    flip: float = 0.0  # probability of a horizontal flip in training

    @property
    def masks(self) -> bool:
        return self.name == "segmentation" or self.head == "mask"

    def check(self, options: EvalConfig) -> None:
        """Refuse what the data cannot serve, before anything is trained."""
        if self.masks:
            self.train.check_masks()
            self.test.check_masks()
        if options.dense_batch > len(self.train):
            raise ConfigError("eval.dense_batch", f"got {options.dense_batch}, but there are {len(self.train)} training images")
        if 0 < options.dense_size < SMALLEST:
            raise ConfigError("eval.dense_size", f"got {options.dense_size}, must be 0 or at least {SMALLEST} px")


def check_head(task: str, head: str) -> str:
    """The head of a task, its first where `head` is empty. Raises UserError."""
    if task not in HEADS:
        raise UserError(f"no evaluation {task!r}; {nearest(task, HEADS)}")
    if head and head not in HEADS[task]:
        raise UserError(f"--head: got {head!r}, eval {task} has {' | '.join(HEADS[task])}; {nearest(head, HEADS[task])}")
    return head or HEADS[task][0]


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


def measured(task: Task, rows: list[Row], config: RunConfig, device: torch.device, show: Show) -> dict[str, float]:
    """Of each row, by its prefix: detection_{head}_ap, _ap50 and _ap75 of boxes, of masks detection_mask_segm_ap and so on, or segmentation_{head}_miou.

    All in [0, 1], on the test images. Raises ConfigError where a row diverges.
    """
    total, done = sum(row.steps + config.eval.dense_steps for row in rows), 0
    metrics: dict[str, float] = {}

    def shown(message: dict[str, Any], before: int, phase: str) -> None:
        show(message | {"step": before + message["step"], "total": total, "phase": phase})

    for row in rows:
        name = row.prefix.rstrip("_") or "pretrained"
        net = row.backbone(partial(shown, before=done, phase=f"{name} backbone"))
        done += row.steps
        network = build(task, net, row, config).to(device)
        with seeded(config.seed, "dense draws"):  # of proposals and dropout, the same for all rows
            train(task, network, config, device, name, partial(shown, before=done, phase=name))
        done += config.eval.dense_steps
        metrics |= {f"{row.prefix}{task.name}_{task.head}_{key}": value for key, value in test(task, network, config).items()}
    return metrics


def build(task: Task, net: nn.Module, row: Row, config: RunConfig) -> nn.Module:
    """Fresh heads on a row's network, the same for all rows."""
    classes = len(task.train.classes)
    with seeded(config.seed, "dense heads"):
        if task.name == "segmentation":
            return segmenter.Segmenter(task.head, net, classes + 1, row.mean, row.std)
        size, proposals = size_of(task, config.eval), config.eval.dense_proposals
        return detector.detector(task.head, net, classes, size=size, mean=row.mean, std=row.std, proposals=proposals)


def size_of(task: Task, options: EvalConfig) -> int:
    """The shorter side of the images that the network sees, in px."""
    return options.dense_size or max(task.train.side, SMALLEST)


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
    options, steps = config.eval, config.eval.dense_steps
    optimizer = SGD(network.parameters(), lr=options.dense_lr, momentum=MOMENTUM, weight_decay=options.dense_decay)
    order = training_order(config.seed, len(task.train), options.dense_batch, steps, task.flip)
    wanted = Wanted(task.name == "segmentation", task.masks, size_of(task, options) if task.name == "segmentation" else 0)
    network.train()
    for step, batch in enumerate(batches(task.train, order, wanted, config.data.workers)):
        for group in optimizer.param_groups:
            group["lr"] = options.dense_lr * rate(step, steps)
        loss = losses(task, network, batch, device)
        now = loss.item()
        if not math.isfinite(now):
            raise ConfigError(
                "eval.dense_lr", f"{name} diverged at step {step + 1} with {options.dense_lr:g}; give a smaller one"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        show({"step": step + 1, "loss": now})
    network.eval()


@torch.no_grad()
def test(task: Task, network: nn.Module, config: RunConfig) -> dict[str, float]:
    """ap, ap50, ap75 (of masks with segm_ before them) or miou of a network in evaluation mode, over all test images at their own size."""
    device = next(network.parameters()).device
    ids = [(i, False) for i in range(len(task.test))]
    size = 1 if task.masks else config.eval.dense_batch  # a hundred masks of each image, at its own size, are held at once
    order = [ids[start : start + size] for start in range(0, len(ids), size)]
    stream = partial(batches, task.test, order, workers=config.data.workers)
    if task.name == "segmentation":
        confusion, side = Confusion(len(task.test.classes) + 1), size_of(task, config.eval)
        for (sample,) in stream(Wanted(True)):
            pixels = resized(sample.pixels.permute(1, 2, 0).numpy(), side)
            scores = network(_unit(torch.from_numpy(pixels).permute(2, 0, 1)[None], device))  # (1, C, h, w)
            scores = F.interpolate(scores, size=sample.shown.shape, mode="bilinear", align_corners=False)
            confusion.add(scores[0].argmax(0).cpu(), sample.shown)
        return {"miou": confusion.miou()}
    found: list[dict[str, Any]] = []
    for batch in stream(Wanted(False)):
        for sample, prediction in zip(batch, network([_unit(each.pixels, device) for each in batch]), strict=True):
            found += found_in(task.test, sample.index, prediction)
    scores = average_precision(task.test, found, "bbox")
    if task.masks:
        scores |= {f"segm_{name}": value for name, value in average_precision(task.test, found, "segm").items()}
    return scores


def _unit(pixels: Tensor, device: torch.device) -> Tensor:
    """Bytes as numbers in [0, 1]."""
    return pixels.to(device).float() / 255
