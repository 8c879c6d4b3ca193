"""Segmentation: an encoder under torchvision's heads, or a frozen one's tokens under a linear layer or k-NN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ._base import Citation, Measured, Subject, setting
from .common.settings import Dense

ABOUT = (
    "an encoder fine-tuned whole to segment, under torchvision's heads, or frozen, by a linear layer or k-NN of its tokens; beside the same "
    "network untrained and supervised"
)
PAPER = Citation("Fully Convolutional Networks for Semantic Segmentation", 2015, "https://arxiv.org/abs/1411.4038")
NEEDS = ("feature maps", "masks")
METRICS = ()


@dataclass(frozen=True)
class Config(Dense):
    """Keys eval.segmentation.*. MoCo's on VOC: steps 30000, batch 16, lr 0.003, drops at 70 and 90 %, scales of 0.5 to 2, crops of 513 px and a head of two
    dilated convolutions; here the drops are detection's, images keep their scale, and the heads are torchvision's."""

    head: Literal["fcn", "deeplab", "linear", "knn"] = setting(
        "fcn",
        "fcn, or deeplab (v3); of a frozen encoder: linear (a linear layer on tokens, as DINOv2's), or knn (tokens of training images vote)",
    )
    k: int = setting(30, "head knn: tokens that vote on each", ge=1)


def evaluate(subject: Subject, options: Config) -> Measured:
    """Of each row, segmentation_{head}_miou: see `measured`."""
    from .dense.protocol import evaluated

    return evaluated("segmentation", subject, options)
