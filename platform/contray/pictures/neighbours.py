"""A dozen images that training did not see, each beside the training images whose features are nearest.

Legend of shapes: N training images, Q queries, D features, K neighbours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..drawing import drawable
from .sheet import RIGHT, WRONG, Sheet
from .subject import Subject, apart

QUERIES, NEIGHBOURS = 12, 8
GAP = 1.3  # tiles from a query to its neighbours
PITCH = 1.14  # tiles from row to row: a name and a number below each other, for beside each other they run into the next tile's
NAMED = 13  # characters of a class's name, as wide as a tile


def draw(subject: Subject, out: Path) -> dict[str, float]:
    """Query, then its neighbours, the nearest first, with their cosine similarities; framed by whether their labels agree."""
    split, ids, kind = subject.asked()
    train = subject.source.train
    queries, asked = subject.features(split, one_per_class(ids, split.labels))
    bank, searched = subject.features(train, subject.limited(train, subject.searched(), len(train)))
    similarity, places = nearest(queries, bank, min(NEIGHBOURS, len(bank)))
    found = searched[places.numpy()]  # (Q, K) ids
    shown, known = subject.pictures(split, asked), subject.pictures(train, np.unique(found))
    named = split.labels is not None and train.labels is not None

    note = f"{'class and ' * named}cosine similarity of the features; {len(bank):,} training images were searched"
    note += "; whole blue frame: the query's class, dashed orange: another" if named else ""
    title = f"{subject.name}: {kind} and the training images nearest to them"
    sheet = Sheet(len(asked), found.shape[1] + GAP, title, note=note, top=0.28, pitch=PITCH)
    sheet.word(-0.12, 0.5, "query", size=9)
    sheet.word(-0.12, GAP + 0.1, "nearest first", size=9, ha="left")
    for row, query in enumerate(asked):
        own = split.classes[split.labels[query]] if split.labels is not None else ""
        sheet.tile(row, 0, shown[query], below=drawable(own, NAMED) or f"image {query}")
        for column, (other, value) in enumerate(zip(found[row], similarity[row].tolist(), strict=True)):
            frame, word = "", f"{value:.3f}"
            if split.labels is not None and train.labels is not None:
                theirs = train.classes[train.labels[other]]
                frame, word = RIGHT if theirs == own else WRONG, f"{drawable(theirs, NAMED)}\n{word}"
            sheet.tile(row, column + GAP, known[other], frame=frame, below=word)
    sheet.save(out)
    return {}


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities (Q, K) of queries (Q, D) with their K nearest rows of the bank (N, D), the nearest first, and places (Q, K)."""
    similar = F.normalize(queries.double(), dim=1) @ F.normalize(bank.double(), dim=1).T  # (Q, N)
    found = similar.topk(k, dim=1)
    return found.values, found.indices


def one_per_class(ids: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """QUERIES of the ids at most, evenly spread, as many of each class; of evenly spread classes where there are more."""
    if labels is None:
        return apart(ids, QUERIES)
    classes = apart(np.unique(labels[ids]), QUERIES)
    return np.concatenate([apart(ids[labels[ids] == each], QUERIES // len(classes)) for each in classes])
