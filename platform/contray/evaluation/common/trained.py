"""Probes as the papers train them: a frozen encoder, fresh random crops each epoch, SGD or LARS.

The encoder runs once per minibatch for all learning rates of the grid. B minibatch, D features, C classes, P probes
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from ... import model
from ...errors import ConfigError
from ...model.optim import LARS
from ...model.seeds import seeded
from .._base import Measured, Show, Subject
from ..linear import MOMENTUM
from .labelled import CroppedImages, Inputs, first_inputs, score
from .settings import CroppedProbe

logger = logging.getLogger(__name__)


def trained_probe(
    subject: Subject, name: str, options: CroppedProbe, encode: Callable[[Inputs], Tensor], head: Callable[[int, int], nn.Module]
) -> Measured:
    """{name}_val_top1, which picked the rate, and {name}_top1 of that probe on the test set, opened after the choice.

    encode: what the probe is given of inputs, (B, ..., D); head(D, C): a probe anew, -> (B, C).
    Raises DataError for labels that cannot serve, ConfigError where every probe diverges.
    """
    config, source, device = subject.config, subject.source, subject.device
    test = subject.test
    fit, val = subject.held_out
    subject.alone(name.removeprefix("linear_"))
    key = f"eval.{name.removeprefix('linear_')}.lrs"

    @torch.no_grad()
    def features(inputs: Inputs) -> Tensor:
        with model.autocast(config, device):
            return encode(inputs).float()

    lrs, classes = sorted(options.lrs), len(source.train.classes)
    width = features(first_inputs(config, source.train, val, device)).shape[-1]

    def fresh() -> nn.Module:
        with seeded(config.seed, name):
            return head(width, classes)

    heads = nn.ModuleList(fresh() for _ in lrs).to(device)
    _train(options, CroppedImages(config, source.train, fit, options.batch, device), features, heads, lrs, subject.show)
    heads.eval()

    def classify(*chosen: nn.Module) -> Callable[[Inputs], Tensor]:
        def run(inputs: Inputs) -> Tensor:
            x = features(inputs)
            with torch.autocast(device.type, enabled=False):
                return torch.stack([each(x) for each in chosen])  # (P, B, C)

        return run

    finite = [all(bool(p.isfinite().all()) for p in each.parameters()) for each in heads]
    if not any(finite):
        given = " ".join(f"{lr:g}" for lr in lrs)
        raise ConfigError(key, f"every probe diverged with {given}; give smaller ones")
    top1, _ = score(config, source.train, val, classify(*heads), device)
    best = max(range(len(lrs)), key=lambda i: float(top1[i]) if finite[i] else -1.0)  # of equals the smaller rate
    if len(lrs) > 1 and best in (0, len(lrs) - 1):
        logger.info("%s: rate %g is on the edge of %s", name, lrs[best], key)
    results = {f"{name}_val_top1": float(top1[best])}
    if test is not None:
        results[f"{name}_top1"] = float(score(config, test, np.arange(len(test)), classify(heads[best]), device)[0])
    return Measured(results)


def _train(
    options: CroppedProbe,
    images: CroppedImages,
    features: Callable[[Inputs], Tensor],
    heads: nn.ModuleList,
    lrs: list[float],
    show: Show,
) -> None:
    groups = [{"params": list(head.parameters()), "lr": lr} for head, lr in zip(heads, lrs, strict=True)]
    optimizer: Optimizer
    if options.optim == "lars":
        optimizer = LARS(groups, lr=lrs[0], momentum=MOMENTUM, weight_decay=options.decay)
    else:
        nesterov = options.optim == "nesterov"
        optimizer = SGD(groups, momentum=MOMENTUM, weight_decay=options.decay, nesterov=nesterov)
    steps = options.epochs * images.steps_per_epoch
    heads.train()
    for step, (batch, y) in enumerate(images(steps)):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr * images.batch_size / 256 * decayed(options.schedule, step / steps)
        x = features(batch.views)
        losses = torch.stack([F.cross_entropy(head(x), y) for head in heads])  # (P,)
        optimizer.zero_grad()
        losses.sum().backward()  # each probe's gradient is its own
        optimizer.step()
        show({"step": step + 1, "total": steps})


def decayed(schedule: str, fraction: float) -> float:
    """The rate, as a share of its peak, after `fraction` of the steps: half a cosine to 0, or a tenth at 60 and again at 80 %."""
    if schedule == "cosine":
        return 0.5 + 0.5 * math.cos(math.pi * fraction)
    return 0.1 ** ((fraction >= 0.6) + (fraction >= 0.8))
