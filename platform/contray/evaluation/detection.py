"""Detection: an encoder under torchvision's heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ._base import Citation, Measured, Subject, setting
from .common.settings import Dense

ABOUT = (
    "an encoder fine-tuned whole to detect objects, under torchvision's heads, beside the same network untrained and supervised"
)
PAPER = Citation(
    "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015, "https://arxiv.org/abs/1506.01497"
)
NEEDS = ("feature maps", "boxes")
METRICS = ()


@dataclass(frozen=True)
class Config(Dense):
    """Keys eval.detection.*. The papers' schedule on VOC: steps 24000, size 800, proposals 512, batch 16, lr 0.02.

    Unlike theirs, training has one size (theirs draws the shorter side from 480 to 800), and batch norm's averages are those of training (theirs are
    taken anew at the end).
    """

    head: Literal["fpn", "c4", "mask"] = setting(
        "fpn", "fpn (Faster R-CNN on a feature pyramid), c4 (the head of MoCo's papers) or mask (Mask R-CNN on a pyramid)"
    )
    proposals: int = setting(64, "proposals that train the box head, per image; twice as many are tested (papers: 512)", ge=8)


def evaluate(subject: Subject, options: Config) -> Measured:
    """Of each row, detection_{head}_ap, _ap50 and _ap75 of boxes, of masks detection_mask_segm_ap and so on: see `measured`."""
    from .dense.protocol import evaluated

    return evaluated("detection", subject, options)
