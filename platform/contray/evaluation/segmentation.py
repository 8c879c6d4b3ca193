"""Segmentation: an encoder under torchvision's heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ._base import Citation, Measured, Subject, setting
from .common.settings import Dense

ABOUT = "an encoder fine-tuned whole to segment, under torchvision's heads, beside the same network untrained and supervised"
PAPER = Citation("Fully Convolutional Networks for Semantic Segmentation", 2015, "https://arxiv.org/abs/1411.4038")
NEEDS = ("feature maps", "masks")
METRICS = ()


@dataclass(frozen=True)
class Config(Dense):
    """Keys eval.segmentation.*. The papers' schedule on VOC: steps 24000, size 800, batch 16, lr 0.02."""

    head: Literal["fcn", "deeplab"] = setting("fcn", "fcn, or deeplab (v3)")


def evaluate(subject: Subject, options: Config) -> Measured:
    """Of each row, segmentation_{head}_miou: see `measured`."""
    from .dense.protocol import evaluated

    return evaluated("segmentation", subject, options)
