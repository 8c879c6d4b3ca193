"""The supervised reference of a run."""

from __future__ import annotations

from dataclasses import dataclass

from ._base import Citation, Measured, Subject
from .common.settings import FineTuning

ABOUT = "the reference: the same backbone, data, batches and steps, trained with all labels instead of without"
PAPER = Citation(
    "A Simple Framework for Contrastive Learning of Visual Representations", 2020, "https://arxiv.org/abs/2002.05709"
)
NEEDS = ("labels",)
METRICS = ()


@dataclass(frozen=True)
class Config(FineTuning):
    """Keys eval.supervised.*."""


def evaluate(subject: Subject, options: Config) -> Measured:
    """supervised_val_top1, which picked the rate, and supervised_top1: see `supervised`."""
    from .common.classifier import supervised

    return Measured(supervised(subject, options, "eval.supervised.").metrics)
