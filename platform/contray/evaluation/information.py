"""What two views of an image share, in nats: InfoNCE's lower bound of their mutual information.

Legend of shapes: P pairs of views, E embeddings (what the loss compares).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ._base import Citation, Measured, Subject

ABOUT = "a lower bound of the mutual information of two training views, by what the loss compares; no labels"
PAPER = Citation("What Makes for Good Views for Contrastive Learning?", 2020, "https://arxiv.org/abs/2005.10243")
NEEDS = ()
METRICS = ()


@dataclass(frozen=True)
class Config:
    """It has no keys of its own."""


def evaluate(subject: Subject, options: Config) -> Measured:
    """information, and random_information of the same network untrained: log P less InfoNCE of P pairs (van den Oord et al. 2018, §2.3).

    The critic is the cosine of embeddings over method.temperature; a bound of what a poor encoder tells is low, however much views share.
    Raises UserError where the method has no pairs of views or no temperature.
    """
    temperature = getattr(subject.config.method, "temperature", None)
    methods = {"": subject.method, "random_": subject.untrained} if subject.tests else {"": subject.method}
    found = {}
    for prefix, method in methods.items():
        pairs = subject.diagnosis.features(method, prefix)[1]
        if not pairs or not temperature:
            raise UserError(f"eval information: {subject.config.method.name} has no pairs of views that a temperature compares")
        x, y = (subject.diagnosis.embed(method, rows) for rows in pairs)  # (P, E)
        found[f"{prefix}information"] = information(x, y, temperature)
    return Measured(found)


@torch.no_grad()
def information(x: Tensor, y: Tensor, temperature: float) -> float:
    """log P less InfoNCE of x (P, E) with its partners among y (P, E), both ways: at most log P; 0 or less where nothing is told."""
    similar = F.normalize(x.double(), dim=1) @ F.normalize(y.double(), dim=1).T / temperature  # (P, P)
    own = torch.arange(len(x))
    loss = (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own)) / 2
    return math.log(len(x)) - float(loss)
