"""A linear probe as the papers train it: fresh random crops each epoch, SGD or LARS. B minibatch, D features, C classes"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ._base import Citation, Measured, Subject, setting
from .common.settings import CroppedProbe

ABOUT = "a linear probe as the papers train it: 90 epochs of random crops, SGD or LARS"
PAPER = Citation("Momentum Contrast for Unsupervised Visual Representation Learning", 2020, "https://arxiv.org/abs/1911.05722")
NEEDS = ("labels",)
METRICS = ("linear_paper_val_top1",)


@dataclass(frozen=True)
class Config(CroppedProbe):
    """Keys eval.paper.*."""

    norm: bool = setting(False, "batch norm without scale and shift before the linear layer (MAE)")


def evaluate(subject: Subject, options: Config) -> Measured:
    """linear_paper_val_top1 and _top1: see `trained_probe`."""
    from .common.trained import trained_probe

    def head(width: int, classes: int) -> nn.Module:
        return linear_head(width, classes, options.norm)

    return trained_probe(subject, "linear_paper", options, subject.method.encode, head)


def linear_head(width: int, classes: int, norm: bool) -> nn.Module:
    """(B, D) -> (B, C); `norm`: batch norm without scale and shift before it (He et al. 2022, appendix A)."""
    layer = nn.Linear(width, classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), layer) if norm else layer
