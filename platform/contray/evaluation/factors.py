"""Which factors of the built-in digits features keep: a linear probe for each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import UserError
from ._base import Citation, Features, Measured, Parts, Subject
from .linear import Config as Probe
from .linear import probed

ABOUT = "linear probes of the built-in digits' factors (digit, background, position), a grid of them trained at once"
PAPER = Citation("What Makes for Good Views for Contrastive Learning?", 2020, "https://arxiv.org/abs/2005.10243")
NEEDS = ("labels",)
METRICS = ("factor_*_val_top1",)


@dataclass(frozen=True)
class Config(Probe):
    """Keys eval.factors.*."""


def evaluate(subject: Subject, options: Config) -> Measured:
    """factor_digit_val_top1, factor_background_val_top1, factor_position_val_top1 and, where the test set is opened, the same without val.

    Of the untrained encoder too, after random_. Features are encoded once for all. Raises UserError on any other source than the digits.
    """
    from .. import data
    from ..data.digits import FACTORS

    if subject.config.data.source != "digits":
        raise UserError(f"eval factors: {subject.config.data.source} has no factors; they are of the built-in digits alone")
    encoders = subject.encoders[:2]
    subject.encode(encoders)
    found: dict[str, float] = {}
    for factor in FACTORS:
        classes, train, test = data.other_labels(subject.source, subject.config, factor)
        for prefix in encoders:
            parts = subject.features(prefix)
            fit, val = labelled(parts.fit, train), labelled(parts.val, train)
            held = None if parts.test is None else labelled(parts.test, test)
            probes = probed(subject, Parts(fit, val, held), options, classes=len(classes), name="factors")
            found |= probes.top1(f"{prefix}factor_{factor}{{which}}_top1")
    return Measured(found)


def labelled(features: Features, labels: np.ndarray | None) -> Features:
    """The features with other labels, of all images of their split."""
    assert labels is not None
    return dataclasses.replace(features, y=torch.as_tensor(labels)[features.ids])
