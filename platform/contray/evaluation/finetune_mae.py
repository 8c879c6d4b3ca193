"""The whole network fine-tuned as MAE's: strongly augmented, a rate that falls from block to block."""

from __future__ import annotations

from dataclasses import dataclass

from ._base import Citation, Measured, Subject, setting
from .finetune import Config as Plain
from .finetune import tuned

ABOUT = (
    "finetune by MAE's recipe for vision transformers: mixup, CutMix, RandAugment, erasing, stochastic depth, layer-wise rates"
)
PAPER = Citation("Masked Autoencoders Are Scalable Vision Learners", 2022, "https://arxiv.org/abs/2111.06377")
NEEDS = ("labels", "transformer blocks")
METRICS = ("finetune_mae_*_val_top1",)


@dataclass(frozen=True)
class Config(Plain):
    """Keys eval.finetune_mae.*: as eval.finetune's. Values for ViT-B on ImageNet (table 9 and the release's FINETUNE.md: --blr 5e-4, batch 1024).

    ViT-L: epochs 50, lrs 4e-3, layer_decay 0.75, drop_path 0.2, warmup 0.1.
    """

    lrs: tuple[float, ...] = setting(
        (2e-3,), "peak rates, one picked on held-out images", unit="absolute: not scaled by the batch", gt=0
    )
    decay: float = setting(0.05, "weight decay, not of biases and norms", ge=0)
    layer_decay: float = setting(0.65, "factor of the rate from each block to the one before it; 1: none", gt=0, le=1)
    warmup: float = setting(0.05, "linear warm-up: 5 epochs of 100", unit="share of the steps", ge=0, lt=1)
    randaugment: tuple[int, int] = setting(
        (2, 9), "RandAugment: operations and magnitude, 0 to 10; 0 operations: none", ge=0, le=10
    )
    erasing: float = setting(0.25, "random erasing of 2 to 33 % of an image", unit="probability", ge=0, le=1)
    mixup: float = setting(0.8, "alpha of mixup; with cutmix, one of the two in each minibatch; 0: none", ge=0)
    cutmix: float = setting(1.0, "alpha of CutMix; 0: none", ge=0)
    smoothing: float = setting(0.1, "label smoothing", unit="fraction", ge=0, lt=1)
    drop_path: float = setting(0.1, "stochastic depth at the last block; 0: as it was pretrained", unit="probability", ge=0, lt=1)
    epochs: int = setting(100, "passes over the labelled images", unit="epochs", ge=1)
    batch: int = setting(1024, "minibatch", unit="images", ge=2)
    holdout: float = setting(0.1, "share of the labelled images that picks the rate", ge=0.01, le=0.5)


def evaluate(subject: Subject, options: Config) -> Measured:
    """finetune_mae_{part}_top1 and scratch_mae_{part}_top1, and _val_top1: as finetune's, of crops of 0.08 to 1 of the area.

    The class token classifies, as in the paper; the release averages the patches, which "performs similarly" (its FINETUNE.md). RandAugment is
    timm's, as the release's, but for its `inc1`, by which every operation grows with the magnitude.
    """
    return tuned(subject, options, "finetune_mae", (0.08, 1.0))
