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
from .labelled import CroppedImages, Inputs, cropped_views, first_inputs, score
from .settings import CroppedProbe

# area of the crops, whatever pretraining cropped: torchvision's, in the releases of MoCo, SwAV, SimSiam, DINO and MAE
CROP = (
    0.08,
    1.0,
)

logger = logging.getLogger(__name__)


def trained_probe(
    subject: Subject, name: str, options: CroppedProbe, encode: Callable[[Inputs], Tensor], head: Callable[[int, int], nn.Module]
) -> Measured:
    """{name}_val_top1, which picked the rate, and {name}_top1 of that probe, or `refit` on all labels, on the test set, opened after the choice.

    encode: what the probe is given of inputs, (B, ..., D); head(D, C): a probe anew, -> (B, C).
    Raises DataError for labels that cannot serve, ConfigError where every probe diverges.
    """
    config, source, device = subject.config, subject.source, subject.device
    test = subject.test
    fit, val = subject.held_out
    subject.alone(name.removeprefix("linear_"))
    key = f"eval.{name.removeprefix('linear_')}.lrs"
    if options.warmup_epochs >= options.epochs:
        raise ConfigError(
            f"{key.removesuffix('lrs')}warmup_epochs", f"got {options.warmup_epochs:g} of {options.epochs} epochs; give fewer"
        )

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

    def images_of(ids: np.ndarray) -> CroppedImages:
        return CroppedImages(config, source.train, ids, options.batch, device, cropped_views(config, CROP))

    _train(options, images_of(fit), features, heads, lrs, subject.show)
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
    if test is None:
        return Measured(results)
    chosen = heads[best]
    if options.refit:
        chosen = fresh().to(device)
        _train(
            options, images_of(np.sort(np.concatenate([fit, val]))), features, nn.ModuleList([chosen]), [lrs[best]], subject.show
        )
        chosen.eval()
    results[f"{name}_top1"] = float(score(config, test, np.arange(len(test)), classify(chosen), device)[0])
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
            group["lr"] = lr * images.batch_size / 256 * decayed(options, step / images.steps_per_epoch)
        x = features(batch.views)
        losses = torch.stack([F.cross_entropy(head(x), y) for head in heads])  # (P,)
        optimizer.zero_grad()
        losses.sum().backward()  # each probe's gradient is its own
        optimizer.step()
        show({"step": step + 1, "total": steps})


def decayed(options: CroppedProbe, epoch: float) -> float:
    """The rate, as a share of its peak, after so many epochs: up from 0 while it warms up, then half a cosine to 0, or a tenth at 60 and again
    at 80 % of what is left (MAE's lr_sched.py; He et al. 2022, table 10).
    """
    warm = options.warmup_epochs
    if epoch < warm:
        return epoch / warm
    fraction = (epoch - warm) / (options.epochs - warm)
    if options.schedule == "cosine":
        return 0.5 + 0.5 * math.cos(math.pi * fraction)
    return 0.1 ** ((fraction >= 0.6) + (fraction >= 0.8))
