"""What features are worth for other labels than those that a supervised network was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._base import Citation, Measured, Subject, setting
from .common.settings import FineTuning

if TYPE_CHECKING:
    import numpy as np

    from ._base import Features

ABOUT = "linear probes of frozen features on other labels of the same images, beside those of the same network trained with the data's own labels"
PAPER = Citation("Momentum Contrast for Unsupervised Visual Representation Learning", 2020, "https://arxiv.org/abs/1911.05722")
NEEDS = ("labels",)
METRICS = ()


@dataclass(frozen=True)
class Config(FineTuning):
    """Keys eval.transfer.*: what the probes are of, how the supervised network is trained."""

    column: str = setting("", "labels that the probes tell: as data.label_column; digits: background, position")


def evaluate(subject: Subject, options: Config) -> Measured:
    """transfer_top1, supervised_transfer_top1 and random_transfer_top1: of the test images, by probes as `linear`'s, with its rates and decays.

    The supervised network is that of `supervised`. Raises ConfigError where eval.transfer.column is not given, UserError without a test set.
    """
    import numpy as np
    import torch

    from .. import data
    from ..errors import ConfigError, UserError
    from ._base import Features, Parts
    from .common.classifier import supervised
    from .common.crew import Asked, Crew
    from .linear import probed

    config, test = subject.config, subject.test
    if not options.column:
        raise ConfigError("eval.transfer.column", "must name the labels that the probes tell, such as background")
    if test is None:
        raise UserError("eval transfer: it measures on a test set, and there is none")
    classes, train_labels, test_labels = data.other_labels(subject.source, config, options.column)
    if test_labels is None:
        raise UserError(f"eval transfer: the test images have no labels {options.column!r}")
    trained = supervised(subject, options, "eval.transfer.").networks["supervised"].method
    fit, val = subject.held_out

    alone = Crew(config, subject.source, subject.device)  # other ranks have no copy of what was trained here
    encoders = {
        "": (subject.crew, {"": subject.method}),
        "supervised_": (alone, {"": trained}),
        "random_": (subject.crew, {"random_": subject.untrained}),
    }

    def features(prefix: str, ids: np.ndarray, tested: bool = False) -> Features:
        crew, methods = encoders[prefix]
        (x,), kept = crew.encode(Asked(ids, tested=tested), methods)
        return Features(x, torch.as_tensor(test_labels if tested else train_labels)[kept], kept)

    found: dict[str, float] = {}
    for prefix in encoders:
        parts = Parts(features(prefix, fit), features(prefix, val), features(prefix, np.arange(len(test)), tested=True))
        tested = probed(subject, parts, config.parts["eval.linear"], classes=len(classes)).tested
        assert tested is not None
        found[f"{prefix}transfer_top1"] = tested.double().mean().item()
    return Measured(found)
