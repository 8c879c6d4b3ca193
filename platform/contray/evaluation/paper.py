"""Probes as the papers train them: a frozen encoder, fresh random crops each epoch, SGD or LARS; linear or attentive.

The encoder runs once per minibatch for all learning rates of the grid. B minibatch, T tokens, D features, C classes, P probes
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

from .. import data, model
from ..config import RunConfig
from ..config.sections import EvalConfig
from ..errors import ConfigError
from ..methods._base import Method
from ..model.optim import LARS
from ..model.seeds import seeded
from .labelled import CroppedImages, Inputs, Show, first_inputs, score
from .linear import MOMENTUM, linear_probe
from .online import images_of
from .protocol import Features, encode
from .samples import check_labels, held_out
from .tokens import last_blocks, tokens

logger = logging.getLogger(__name__)


class AttentiveProbe(nn.Module):
    """One learned query that attends to the layer-normed tokens, then a linear layer: (B, T, D) -> (B, C).

    CAE's evaluation (Chen et al. 2022, arXiv 2202.03026, §4) of encoders whose class token was never trained; without batch norm.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        heads = next(count for count in range(max(1, width // 64), 0, -1) if width % count == 0)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        pooled, _ = self.attention(self.query.expand(len(x), -1, -1), x, x, need_weights=False)  # (B, 1, D)
        return self.head(pooled[:, 0])


def linear_head(width: int, classes: int, norm: bool) -> nn.Module:
    """(B, D) -> (B, C); `norm`: batch norm without scale and shift before it (He et al. 2022, appendix A)."""
    layer = nn.Linear(width, classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), layer) if norm else layer


def trained_probe(
    config: RunConfig, source: data.Source, method: Method, device: torch.device, *, attentive: bool, show: Show
) -> dict[str, float]:
    """{linear_paper or attentive}_val_top1, which picked the rate, and _top1 of that probe on the test set, opened after the choice.

    Raises DataError for labels that cannot serve, ConfigError where every probe diverges.
    """
    options, name = config.eval, "attentive" if attentive else "linear_paper"
    test = check_labels(source)
    fit, val = held_out(config, source)
    method.eval()

    @torch.no_grad()
    def features(inputs: Inputs) -> Tensor:
        with model.autocast(config, device):
            return (tokens(method, inputs) if attentive else method.encode(inputs)).float()

    lrs, classes = sorted(options.paper_lrs), len(source.train.classes)
    width = features(first_inputs(config, source.train, val, device)).shape[-1]

    def head() -> nn.Module:
        with seeded(config.seed, name):
            return AttentiveProbe(width, classes) if attentive else linear_head(width, classes, options.paper_norm)

    heads = nn.ModuleList(head() for _ in lrs).to(device)
    _train(options, CroppedImages(config, source.train, fit, options.paper_batch, device), features, heads, lrs, show)
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
        raise ConfigError("eval.paper_lrs", f"every probe diverged with {given}; give smaller ones")
    top1, _ = score(config, source.train, val, classify(*heads), device)
    best = max(range(len(lrs)), key=lambda i: float(top1[i]) if finite[i] else -1.0)  # of equals the smaller rate
    if len(lrs) > 1 and best in (0, len(lrs) - 1):
        logger.info("%s: rate %g is on the edge of eval.paper_lrs", name, lrs[best])
    results = {f"{name}_val_top1": float(top1[best])}
    if test is not None:
        results[f"{name}_top1"] = float(score(config, test, np.arange(len(test)), classify(heads[best]), device)[0])
    return results


def _train(
    options: EvalConfig,
    images: CroppedImages,
    features: Callable[[Inputs], Tensor],
    heads: nn.ModuleList,
    lrs: list[float],
    show: Show,
) -> None:
    groups = [{"params": list(head.parameters()), "lr": lr} for head, lr in zip(heads, lrs, strict=True)]
    optimizer: Optimizer
    if options.paper_optim == "lars":
        optimizer = LARS(groups, lr=lrs[0], momentum=MOMENTUM, weight_decay=options.paper_decay)
    else:
        nesterov = options.paper_optim == "nesterov"
        optimizer = SGD(groups, momentum=MOMENTUM, weight_decay=options.paper_decay, nesterov=nesterov)
    steps = options.paper_epochs * images.steps_per_epoch
    heads.train()
    for step, (batch, y) in enumerate(images(steps)):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr * images.batch_size / 256 * decayed(options.paper_schedule, step / steps)
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


def last_n_probe(config: RunConfig, source: data.Source, method: Method, device: torch.device) -> dict[str, float]:
    """linear_last{n}_val_top1 and, on the test set, linear_last{n}_top1: the cached grid on class tokens of the last n blocks.

    With eval.last_average the names have `_avg` after the number. Raises as `last_blocks` does, before anything is encoded.
    """
    options, test = config.eval, check_labels(source)
    fit, val = held_out(config, source)
    method.eval()

    def encoder(inputs: Inputs) -> Tensor:
        return last_blocks(method, inputs, options.last_n, options.last_average)

    def features(split: data.Split, ids: np.ndarray) -> Features:
        with model.autocast(config, device):
            x, kept = encode(encoder, images_of(config, split, ids), normalise=model.normaliser(config, device), device=device)
        return Features(x, torch.as_tensor(split.labels)[kept], kept)

    with torch.no_grad():
        encoder(first_inputs(config, source.train, val, device))
    fitted, held = features(source.train, fit), features(source.train, val)
    assert fitted.y is not None
    assert held.y is not None
    probe = linear_probe(
        fitted.x, fitted.y, held.x, held.y, lrs=options.probe_lrs, decays=options.probe_decays, epochs=options.probe_epochs,
        classes=len(source.train.classes), seed=config.seed, device=device,
    )  # fmt: skip
    name = f"linear_last{options.last_n}{'_avg' if options.last_average else ''}"
    results = {f"{name}_val_top1": probe.val_top1}
    if test is not None:
        tested = features(test, np.arange(len(test)))
        assert tested.y is not None
        results[f"{name}_top1"] = probe.top1(tested.x, tested.y)
    return results
