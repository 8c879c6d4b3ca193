"""Which samples are seen when: pure functions, so that a run resumes at any step on any number of workers."""

from __future__ import annotations

import numpy as np

from .draws import generator
from .splits import Split


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """(n,) int64: the order of an epoch's samples."""
    return generator(seed, "order", epoch).permutation(n)


def holdout(split: Split, fraction: float, seed: int, ids: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(fit ids, held-out ids), both sorted: about `fraction` of each class, and samples of one group on one side.

    A class of at least two groups is on both sides. Without labels all samples count as one class. ids: of these samples alone, sorted.
    """
    ids = np.arange(len(split)) if ids is None else ids
    groups = ids if split.groups is None else split.groups[ids]
    names, first = np.unique(groups, return_index=True)  # a group counts with the label of its first sample
    labels = np.zeros(len(ids), np.int64) if split.labels is None else split.labels[ids]
    rng = generator(seed, "holdout")
    held: list[np.ndarray] = []
    for label in np.unique(labels[first]):
        members = rng.permutation(names[labels[first] == label])
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held.append(members[:count])
    inside = np.isin(groups, np.concatenate(held))
    return ids[~inside], ids[inside]
