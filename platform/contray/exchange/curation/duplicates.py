"""SemDeDup (Abbas et al. 2023, https://arxiv.org/abs/2303.09540): of images that mean the same, one stays.

Images are clustered; within a cluster they are lined up by their cosine similarity to its centre, the least similar first, and one is dropped where
any before it in the line is more similar to it than 1 - epsilon. So the one farthest from the centre stays. What lies in two clusters is never compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .clusters import CHUNK, device
from .features import Show


@dataclass(frozen=True)
class Nearest:
    """Of each image the most similar one before it in its cluster's line: the cosine similarity (N,), -1 of the first, and its number (N,)."""

    similarity: np.ndarray
    other: np.ndarray

    def dropped(self, threshold: float) -> np.ndarray:
        """(N,) bool: the duplicates."""
        return self.similarity > threshold

    def threshold_for(self, share: float) -> float:
        """The similarity above which so many are dropped that this share of the images stays, and those as similar as the last of them."""
        keep = max(1, round(share * len(self.similarity)))
        return float(np.sort(self.similarity)[min(keep, len(self.similarity)) - 1])

    def kept_for(self, dropped: np.ndarray) -> np.ndarray:
        """(N,): the image that stays for each, itself where it is not dropped."""
        found = np.where(dropped, self.other, np.arange(len(dropped)))
        while (further := found[found]).tolist() != found.tolist():
            found = further
        return found


def nearest_before(x: np.ndarray, labels: np.ndarray, centres: Tensor, show: Show = lambda message: None) -> Nearest:
    """x: (N, D) of unit length; labels: (N,) their clusters; centres: (K, D) of these."""
    where = device()
    similarity, other = np.full(len(x), -1, np.float32), np.arange(len(x))
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(len(centres) + 1), "left")
    for cluster, (start, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        members = order[start:end]
        if len(members) < 2:
            continue
        rows = torch.from_numpy(np.ascontiguousarray(x[members])).to(where)  # (n, D)
        line = torch.argsort(rows @ F.normalize(centres[cluster].to(where), dim=0), stable=True)
        rows, members = rows[line], members[line.cpu().numpy()]
        step = max(1, CHUNK // len(rows))
        for first in range(0, len(rows), step):
            last = min(first + step, len(rows))
            block = rows[first:last] @ rows[:last].T  # (b, last): with those before, and among themselves
            block[:, first:].masked_fill_(torch.ones_like(block[:, first:], dtype=torch.bool).triu(), -1)
            best, place = block.max(1)
            similarity[members[first:last]], other[members[first:last]] = best.cpu().numpy(), members[place.cpu().numpy()]
        other[members[0]] = members[0]
        show({"step": end, "total": len(x), "unit": "image", "phase": "duplicates"})
    return Nearest(similarity, other)
