"""Prototypes of a method that clusters while it trains: of the training images that are assigned to some of them, the nearest.

Legend of shapes: N images, D features, K prototypes, C classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..drawing import SHORT, drawable
from ..errors import UserError
from .sheet import RIGHT, WRONG, Sheet
from .subject import Subject, apart, offering

SHOWN, NEAREST, COLUMNS, LIMIT = 12, 8, 2, 20_000
WORDS, ROW = 1.35, 1.06  # tiles that the words about a prototype take, and that rows are apart


def draw(subject: Subject, out: Path) -> dict[str, float]:
    """For some prototypes, from those that most images are assigned to to those that get the fewest, the NEAREST of these images.

    An image is assigned to the prototype of its highest score. prototypes_used: the share that any image is assigned to; with labels
    prototype_purity: the share of images whose class is the most frequent of their prototype. Raises UserError for a method without
    prototypes.
    """
    scores_of(subject, torch.zeros(1, subject.method.out_dim))  # before the features of all images are computed
    train = subject.source.train
    features, ids = subject.features(train, subject.limited(train, train.known, LIMIT))
    scores = scores_of(subject, features)  # (N, K)
    own, count = scores.argmax(1).numpy(), scores.shape[1]
    sizes = np.bincount(own, minlength=count)  # (K,)
    labels = None if train.labels is None else train.labels[ids]
    found = {"prototypes_used": float((sizes > 0).mean())}
    if labels is not None:
        found["prototype_purity"] = purity(own, labels)

    shown = chosen(sizes)
    nearest = [nearest_of(scores[:, prototype], own == prototype) for prototype in shown]
    known = subject.pictures(train, np.unique(ids[np.concatenate(nearest)]))
    per_column = -(-len(shown) // COLUMNS)
    wide = NEAREST + WORDS + 0.25
    title = f"{subject.name}: {len(shown)} of {count} prototypes, and the nearest of the training images assigned to each"
    note = f"{len(ids):,} of {len(train):,} images, {(sizes > 0).sum()} prototypes get some"
    note += (
        f"; {found['prototype_purity']:.1%} of the images are of their prototype's most frequent class (whole blue frame)"
        if labels is not None
        else ""
    )
    sheet = Sheet(per_column * ROW, wide * COLUMNS - 0.25, title, note=note, inches=0.7)
    for place, prototype in enumerate(shown):
        row, left = place % per_column * ROW, place // per_column * wide
        words, most = f"{sizes[prototype]} images", None
        if labels is not None:
            inside = labels[own == prototype]
            most = np.bincount(inside).argmax()
            words += f"\n{(inside == most).mean():.0%} {drawable(train.classes[most], SHORT)}"
        sheet.word(row + 0.5, left + WORDS - 0.08, f"prototype {prototype}\n{words}", ha="right", size=8)
        for column, i in enumerate(nearest[place]):
            frame = "" if labels is None else RIGHT if labels[i] == most else WRONG
            sheet.tile(row, left + WORDS + column, known[int(ids[i])], frame=frame)
    sheet.save(out)
    return found


@torch.no_grad()
def scores_of(subject: Subject, features: Tensor) -> Tensor:
    """(N, K) on the CPU, of features (N, D), in the weights' precision: bf16 would make ties. Raises UserError where there are none."""
    like = next(subject.method.parameters())
    try:
        parts = [subject.method.prototype_scores(part.to(like)).float().cpu() for part in features.split(4096)]
    except NotImplementedError as error:
        name = Path(subject.config.method.name).stem
        raise UserError(f"plot prototypes: {name} {error}; {offering('prototype_scores')}") from None
    return torch.cat(parts)


def chosen(sizes: np.ndarray) -> np.ndarray:
    """SHOWN prototypes at most of those that images are assigned to, of sizes (K,): evenly spread over the order of their sizes."""
    order = np.argsort(-sizes, kind="stable")[: int((sizes > 0).sum())]
    return apart(order, SHOWN)


def nearest_of(scores: Tensor, own: np.ndarray) -> np.ndarray:
    """The NEAREST images at most, by scores (N,) from the highest, of those where `own` (N,) holds."""
    members = np.flatnonzero(own)
    return members[np.argsort(-scores.numpy()[members], kind="stable")[:NEAREST]]


def purity(own: np.ndarray, labels: np.ndarray) -> float:
    """Share of images, of clusters `own` (N,), whose label (N,) is the most frequent in their cluster."""
    table = np.zeros((own.max() + 1, labels.max() + 1), np.int64)
    np.add.at(table, (own, labels), 1)
    return float(table.max(1).sum() / len(own))
