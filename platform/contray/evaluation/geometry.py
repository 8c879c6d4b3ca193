"""How features fill their space, with no labels: rank, alignment, uniformity, spread. Pure functions of tensors.

Legend of shapes: N rows, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ._base import Citation, Measured, Subject

ABOUT = "rank, spread, alignment and similarities of features, beside the untrained encoder's; no labels"
PAPER = Citation(
    "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank", 2023, "https://arxiv.org/abs/2210.02885"
)  # fmt: skip
NEEDS = ()
METRICS = ("rankme",)


@dataclass(frozen=True)
class Config:
    """It has no keys of its own."""


def evaluate(subject: Subject, options: Config) -> Measured:
    """The metrics of `Diagnosis.measure` of the encoder and, where it is tested, after `random_`, of the same network untrained; both's
    similarities as a picture, for which the method must have pairs of views (UserError).
    """
    from .common.diagnosis import draw

    found = subject.diagnosis.measure(subject.method)
    picture = subject.picture("similarities.png")
    if subject.tests:
        found |= {f"random_{name}": value for name, value in subject.diagnosis.measure(subject.untrained, "random_").items()}
        if picture is not None:
            draw(subject.diagnosis, subject.method, subject.untrained, picture)
    return Measured(found, (picture,) if picture else ())


TILE = 2**22  # pairs that are compared at once


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """Effective rank of features (N, D), from 1 to min(N, D): RankMe (Garrido et al. 2023, https://arxiv.org/abs/2210.02885, eq. 2 and 3).

    The exponential of the entropy of the singular values' shares, to each of which 1e-7 is added; the features are not centred.
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(1e-300) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


@torch.no_grad()
def alignment(x: Tensor, y: Tensor, alpha: float = 2.0) -> float:
    """Mean distance, to the power alpha, of the unit vectors of positives x, y (N, D); 0 is perfect, 2 chance where alpha is 2.

    Wang & Isola 2020, https://arxiv.org/abs/2005.10242, §4.1.
    """
    return float((F.normalize(x.double(), dim=1) - F.normalize(y.double(), dim=1)).norm(dim=1).pow(alpha).mean())


@torch.no_grad()
def uniformity(x: Tensor, t: float = 2.0) -> float:
    """log of the mean of exp(-t d^2) over all pairs of the unit vectors of x (N, D): the lower, the more evenly spread; 0 is collapse.

    Wang & Isola 2020, https://arxiv.org/abs/2005.10242, §4.1. Never holds more than TILE pairs. Raises ValueError for fewer than two rows.
    """
    if len(x) < 2:
        raise ValueError(f"uniformity is of pairs: got {len(x)} row(s)")
    unit = F.normalize(x.double(), dim=1)
    side = math.isqrt(TILE)
    total = torch.zeros((), dtype=unit.dtype, device=unit.device)
    for i, rows in enumerate(unit.split(side)):
        for j, columns in enumerate(unit[i * side :].split(side)):
            similar = rows @ columns.T  # (side, side), d^2 = 2 - 2 s
            pairs = (2 * t * (similar - 1)).exp()
            total += pairs.sum() if j else pairs.triu(1).sum()  # each pair once, none with itself
    return float((total / (len(x) * (len(x) - 1) / 2)).log())


@torch.no_grad()
def spread(features: Tensor) -> float:
    """Standard deviation over the rows of the unit vectors of features (N, D), the mean over dimensions.

    0 is collapse; evenly spread features have 1 / sqrt(D) (Chen & He 2021, https://arxiv.org/abs/2011.10566, §4.1).
    """
    return float(F.normalize(features.double(), dim=1).std(0, correction=0).mean())
