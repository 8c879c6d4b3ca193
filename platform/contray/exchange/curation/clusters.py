"""k-means over any number of unit features, in bounded memory, and a hierarchy of it.

N images, D features, K clusters. Centres are fitted on a sample of at most SAMPLE rows for each, as faiss does; all rows are assigned in chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .features import Show

SAMPLE, STARTED_ON = 256, 16  # rows for each centre that it is fitted on, and that it is started on
ITERATIONS = 25
ENOUGH = 1e-4  # share by which an iteration must bring rows nearer to their centres
CHUNK = 16 * 2**20  # similarities that are held at once
RESAMPLINGS, NEAREST = 3, 8  # of the hierarchy: how often, and rows of each cluster


def device() -> torch.device:
    """Where similarities are computed."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def assign(x: np.ndarray | Tensor, centres: Tensor, show: Show = lambda message: None) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of the centres (K, D) to each row (N, D): numbers (N,) int64 and half the squared distance less that of unit rows' own, (N,)."""
    where, step = device(), max(1, CHUNK // len(centres))
    own = centres.to(where)
    offset = own.square().sum(1) / 2  # (K,)
    labels, costs = np.empty(len(x), np.int64), np.empty(len(x), np.float32)
    for start in range(0, len(x), step):
        rows = (
            torch.as_tensor(np.ascontiguousarray(x[start : start + step]))
            if isinstance(x, np.ndarray)
            else x[start : start + step]
        )
        cost, label = (offset - rows.to(where) @ own.T).min(1)  # (n, K)
        labels[start : start + step], costs[start : start + step] = label.cpu().numpy(), cost.cpu().numpy()
        show({"step": min(start + step, len(x)), "total": len(x), "unit": "image", "phase": "clusters"})
    return labels, costs


def kmeans(x: np.ndarray, count: int, rng: np.random.Generator, spherical: bool = False) -> Tensor:
    """Centres (K, D) of rows (N, D), K = `count` or as many as there are rows: k-means++, then Lloyd's iterations on a sample.

    spherical: centres are of unit length, so that the nearest is the one of the largest cosine.
    """
    sample = _sample(x, SAMPLE * count, rng)  # (n, D)
    centres = _started(_sample(sample.numpy(), STARTED_ON * count, rng), count, rng)
    best = np.inf
    for _ in range(ITERATIONS):
        labels, costs = assign(sample, centres)
        centres = _means(sample, labels, costs, len(centres))
        centres = F.normalize(centres, dim=1) if spherical else centres
        total = float(np.sum(costs + 0.5, dtype=np.float64))
        if total > best * (1 - ENOUGH):
            break
        best = total
    return centres


def _sample(x: np.ndarray, most: int, rng: np.random.Generator) -> Tensor:
    rows = np.arange(len(x)) if len(x) <= most else np.sort(rng.choice(len(x), most, replace=False))
    return torch.from_numpy(np.ascontiguousarray(x[rows]))


def _started(x: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii 2007): each centre a row drawn by its squared distance to the centres before it."""
    lengths = x.square().sum(1)  # (n,)
    chosen: list[int] = []
    weights = np.ones(len(x))
    while len(chosen) < min(count, len(x)) and weights.sum() > 1e-6 * len(x):  # else all rows stand on centres
        drawn = np.searchsorted(np.cumsum(weights), rng.random() * weights.sum(), side="right")
        chosen.append(min(int(drawn), len(x) - 1))
        distance = (lengths - 2 * (x @ x[chosen[-1]]) + lengths[chosen[-1]]).clamp_min(0).double().numpy()
        weights = distance if len(chosen) == 1 else np.minimum(weights, distance)
    return x[chosen].clone()


def _means(x: Tensor, labels: np.ndarray, costs: np.ndarray, count: int) -> Tensor:
    """The mean of each cluster's rows, (K, D); a cluster without any begins anew at one of the rows that are farthest from their centres."""
    which = torch.from_numpy(labels)
    sums = torch.zeros(count, x.shape[1]).index_add_(0, which, x)
    sizes = torch.bincount(which, minlength=count)
    empty = torch.nonzero(sizes == 0)[:, 0]
    farthest = np.argsort(-costs, kind="stable")[: len(empty)].copy()
    sums[empty[: len(farthest)]] = x[torch.from_numpy(farthest)]
    return sums / sizes.clamp_min(1)[:, None]


def hierarchy(
    x: np.ndarray, counts: Sequence[int], rng: np.random.Generator, show: Show = lambda message: None
) -> list[np.ndarray]:
    """Clusters of clusters: of each level, the first one's of the rows, (N,) or (K of the level before,) numbers.

    Hierarchical k-means with resampling (Vo et al. 2024, https://arxiv.org/abs/2405.15613, algorithm 1): each level clusters the centres of the one
    before; k-means is then repeated on the rows nearest to each centre alone, which spreads the centres evenly over where there is data instead of
    over how much there is. Of the first level that is done on the sample, all rows are assigned once. counts: clusters of each level, falling.
    """
    levels = []
    for count in counts:
        sample = _sample(x, SAMPLE * count, rng).numpy()
        centres = kmeans(sample, count, rng)
        for _ in range(RESAMPLINGS):
            centres = kmeans(sample[_nearest(*assign(torch.from_numpy(sample), centres))], count, rng)
        labels, _ = assign(x, centres, show)
        used, labels = np.unique(labels, return_inverse=True)  # none is empty
        levels.append(labels)
        x = centres.numpy()[used]
    return levels


def _nearest(labels: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The NEAREST rows of each cluster."""
    order = np.lexsort((costs, labels))
    lined = labels[order]
    places = np.arange(len(lined)) - np.searchsorted(lined, lined, "left")
    return np.sort(order[places < NEAREST])
