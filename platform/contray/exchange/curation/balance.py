"""Balanced sampling over a hierarchy of clusters (Vo et al. 2024, https://arxiv.org/abs/2405.15613, section 3.3): as many images from everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def allotted(sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(K,) how many of each of the clusters of sizes (K,), `count` in all: the same of each, or all it has where that is less.

    What does not divide evenly goes to clusters drawn from those that have more.
    """
    count = min(count, int(sizes.sum()))
    low, high = 0, int(sizes.max(initial=0))
    while low < high:  # the largest n with sum(min(n, sizes)) <= count
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(np.minimum(sizes, middle).sum()) <= count else (low, middle - 1)
    found = np.minimum(sizes, low)
    more = np.flatnonzero(sizes > low)
    found[rng.permutation(more)[: count - int(found.sum())]] += 1
    return found


def balanced(levels: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` images, sorted: from the top of the `hierarchy` down each cluster's share is divided among those in it; of the lowest, images are drawn."""
    of_image = levels[0]
    sizes = [np.bincount(of_image)]  # images in each cluster, level by level
    for above in levels[1:]:
        sizes.append(np.bincount(above, sizes[-1]).astype(np.int64))
    quotas = allotted(sizes[-1], count, rng)
    for level in range(len(levels) - 2, -1, -1):
        own = np.zeros(len(sizes[level]), np.int64)
        for cluster in np.flatnonzero(quotas).tolist():
            inside = np.flatnonzero(levels[level + 1] == cluster)
            own[inside] = allotted(sizes[level][inside], int(quotas[cluster]), rng)
        quotas = own
    drawn = rng.permutation(len(of_image))
    order = drawn[np.argsort(of_image[drawn], kind="stable")]
    places = np.arange(len(order)) - np.searchsorted(of_image[order], of_image[order], "left")
    return np.sort(order[places < quotas[of_image[order]]])
