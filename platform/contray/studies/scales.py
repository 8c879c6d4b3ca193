"""The scales at which a study runs, and what all studies have in common there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scale:
    """presets: of a method, the first that it has is what arms stand on; settings: dotted keys on top of it, under those of the study's file."""

    about: str
    presets: tuple[str, ...]
    settings: Mapping[str, Any]


SCALES = {
    "digits": Scale(
        "the built-in digits, 200 steps of batch 64: half a minute of one core for a run",
        ("digits",),
        {
            "data.source": "digits",
            "data.renderings": 2,
            "data.workers": 0,
            "train.steps": 200,
            "train.batch_size": 64,
            "eval.every_epochs": 0.0,
            "eval.final": ("knn", "linear"),
            "eval.linear.epochs": 30,
            "eval.linear.lrs": (1.0, 3.0, 10.0),
            "eval.linear.decays": (0.0,),
        },
    ),
    "cifar": Scale("CIFAR-10", ("cifar_short", "cifar"), {"data.source": "cifar10", "eval.final": ("knn", "linear")}),
    "paper": Scale("as in the paper, on images of one's own: --data.source", ("paper",), {}),
}
