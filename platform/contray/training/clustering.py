"""Features of the whole training set, for methods that assign clusters: embedded by all ranks, gathered on the first."""

from __future__ import annotations

import numpy as np
import torch

from .. import data
from ..config import RunConfig
from ..evaluation.common.crew import Asked, Crew
from ..methods._base import Method
from .agreement import Ranks


def embed(config: RunConfig, method: Method, source: data.Source, device: torch.device, ranks: Ranks) -> torch.Tensor:
    """(N, D) features of the whole training set in id order on rank 0, (0, D) on the others; broken images are given the mean.

    To be called by every rank. The features are bit for bit those of one rank.
    """
    crew, count = Crew(config, source, device, shared=True), len(source.train)
    found, known = torch.empty(0, 0), torch.empty(0)
    if ranks.rank:
        crew.follow(method)
    else:
        with crew.leading():
            (found,), known = crew.encode(Asked(np.arange(count)), {"": method})
    width = ranks.first(lambda: found.shape[1])
    if ranks.rank:
        return torch.empty(0, width, device=device)
    if len(found) == count:
        return found.to(device)
    features = found.mean(0).repeat(count, 1)
    features[known] = found
    return features.to(device)
