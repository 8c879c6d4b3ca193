"""Keys that several evaluations have, each as its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...methods._base import setting


@dataclass(frozen=True)
class CroppedProbe:
    """Probes that are trained on random crops."""

    optim: Literal["sgd", "nesterov", "lars"] = setting("sgd", "optimiser, of momentum 0.9")
    lrs: tuple[float, ...] = setting(
        (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        "learning rates, trained side by side on the same crops",
        unit="per 256 samples",
        gt=0,
    )
    decay: float = setting(0.0, "weight decay", ge=0)
    epochs: int = setting(90, "passes over the augmented images", unit="epochs", ge=1)
    batch: int = setting(256, "minibatch", unit="images", ge=2)
    schedule: Literal["cosine", "step"] = setting("cosine", "cosine to 0, or a tenth of the rate at 60 and at 80 % (MoCo)")
    warmup_epochs: float = setting(
        0.0, "linear warm-up from 0, before the schedule (MAE: 10; MoCo, SwAV, DINO: none)", unit="epochs", ge=0
    )
    refit: bool = setting(False, "train the picked probe once more, on all labels, for the test set; it takes as long again")


@dataclass(frozen=True)
class FineTuning:
    """How a whole network is trained with labels."""

    optim: Literal["adamw", "nesterov", "lars"] = setting("adamw", "optimiser; momentum 0.9; lars adapts all but the classifier")
    lrs: tuple[float, ...] = setting(
        (3e-4, 1e-3, 3e-3),
        "peak rates, one picked on held-out images; a warm-up, then a cosine to 0",
        unit="absolute: not scaled by the batch",
        gt=0,
    )
    decay: float = setting(0.0, "weight decay, not of biases and norms", ge=0)
    layer_decay: float = setting(
        1.0, "ViTs: factor of the rate from each block to the one before it (MAE: 0.65); 1: none", gt=0, le=1
    )
    warmup: float = setting(
        0.1, "linear warm-up (SimCLR v2: 0; MAE: 0.05, 5 epochs of 100)", unit="share of the steps", ge=0, lt=1
    )


@dataclass(frozen=True)
class Augmented(FineTuning):
    """Fine-tuning under augmentations, none by default; in brackets those of MAE (He et al. 2022, table 9, and the release's FINETUNE.md)."""

    randaugment: tuple[int, int] = setting(
        (0, 9), "RandAugment: operations and magnitude, 0 to 10 (2 9); 0 operations: none", ge=0, le=10
    )
    erasing: float = setting(0.0, "random erasing of 2 to 33 % of an image (0.25)", unit="probability", ge=0, le=1)
    mixup: float = setting(0.0, "alpha of mixup (0.8); with cutmix, one of the two in each minibatch; 0: none", ge=0)
    cutmix: float = setting(0.0, "alpha of CutMix (1); 0: none", ge=0)
    smoothing: float = setting(0.0, "label smoothing (0.1)", unit="fraction", ge=0, lt=1)
    drop_path: float = setting(
        0.0, "stochastic depth of a ViT at its last block (ViT-B: 0.1); 0: as it was pretrained", unit="probability", ge=0, lt=1
    )


@dataclass(frozen=True)
class Teaching(FineTuning):
    """A teacher that is fine-tuned on a part of the labels, and a student; lrs, optim, decay and layer_decay are of all that is trained."""

    labels: str = setting("0.1", "labels that the teacher gets: a fraction such as 0.01, 10-per-class, or a list of images")
    finetune_epochs: int = setting(
        60, "the teacher's passes over the labelled images, and those of the student's own references", unit="epochs", ge=1
    )
    finetune_batch: int = setting(64, "their minibatch", unit="images", ge=2)
    holdout: float = setting(0.2, "share of the labelled images that picks the rate", ge=0.01, le=0.5)
    epochs: int = setting(60, "the student's passes over all images", unit="epochs", ge=1)
    start: Literal["untrained", "pretrained"] = setting(
        "untrained", "the student's first weights; pretrained: those of student_run or student_checkpoint"
    )
    student_run: str = setting("", "MLflow run of a student pretrained by itself: its own fine-tuning is measured too")
    student_checkpoint: str = setting("", "the same from a checkpoint file or a run's folder")


@dataclass(frozen=True)
class Dense:
    """Fine-tuning of a whole encoder on images with boxes or masks, beside the same network untrained and supervised."""

    data: str = setting(
        "scenes",
        "scenes (the built-in digits on textures), or a folder in COCO's format: train.json and val.json, or "
        "annotations/instances_train*.json and instances_val*.json, with the images",
        unit="path",
    )
    supervised: str = setting(
        "train",
        "the supervised backbone: train (with the labels of the run's data, in as many steps), a checkpoint or imported encoder of the "
        "same network, or none",
    )
    steps: int = setting(
        300, "optimiser steps (MoCo on VOC: detection 24 000, segmentation 30 000); for the built-in scenes", unit="steps", ge=1
    )
    batch: int = setting(16, "minibatch (papers: 16)", unit="images", ge=2)
    lr: float = setting(
        0.02,
        "rate of SGD, all layers trained (papers: detection 0.02, segmentation 0.003); warmed up, a tenth after 3/4, a hundredth after 11/12 of the steps",
        unit="absolute: not scaled by the batch",
        gt=0,
    )
    decay: float = setting(1e-4, "weight decay (papers: 1e-4)", ge=0)
    size: int = setting(0, "images' shorter side (papers' detection: 800 on VOC and COCO); 0: the data's median", unit="px", ge=0)
    flip: float = setting(
        0.5, "horizontal flip; the built-in scenes are digits and never flipped", unit="probability", ge=0, le=1
    )
    supervised_optim: Literal["adamw", "nesterov", "lars"] = setting("adamw", "supervised backbone: optimiser; momentum 0.9")
    supervised_lrs: tuple[float, ...] = setting(
        (3e-4, 1e-3, 3e-3),
        "supervised backbone: peak rates, one picked on held-out images; warm-up over a tenth, then a cosine to 0",
        unit="absolute: not scaled by the batch",
        gt=0,
    )
    supervised_decay: float = setting(0.0, "supervised backbone: weight decay, not of biases and norms", ge=0)
    supervised_layer_decay: float = setting(
        1.0, "supervised backbone: factor of a ViT's rate from each block to the one before it; 1: none", gt=0, le=1
    )

    @property
    def training(self) -> FineTuning:
        """Of the supervised backbone."""
        return FineTuning(self.supervised_optim, self.supervised_lrs, self.supervised_decay, self.supervised_layer_decay)
