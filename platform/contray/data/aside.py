"""A test set where there is none: a share of the labelled images, of each class its own, that never trains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .digests import lots_of
from .splits import EncodedSplit, Source, Split
from .subset import Subset

LEAST = 3  # images of a class that can spare one: one more trains, and one more picks


def set_aside(source: Source, share: float, place: str) -> Source:
    """The source with a test set of about `share` of each class's images, taken out of training, where labels are there and no test set is.

    place: what the source is called in words. Stays as it is where no class could spare an image.
    """
    train = source.train
    if not share or source.test is not None or train.labels is None:
        return source
    lots, known, held = lots_of_split(train), train.known, np.zeros(len(train), bool)
    held[known] = spared(lots[known], train.labels[known], share)
    if not held.any() or len(known) - held.sum() - len(np.unique(train.labels[known])) < 2:
        return source
    ids = np.arange(len(train))
    words = f"a held-out {'tenth' if share == 0.1 else f'{100 * share:g} %'} of {place}"
    note = f"no test set: {words} ({held.sum():,} images) tests, and never trains; with --data.test_share 0 all train"
    return replace(
        source, train=part_of(train, ids[~held]), test=part_of(train, ids[held]), notes=[*source.notes, note], tested=words
    )


def part_of(split: Split, ids: np.ndarray) -> Split:
    """These samples of a split as a split."""
    return split.subset(ids) if isinstance(split, EncodedSplit) else Subset(split, ids)


def lots_of_split(split: Split) -> np.ndarray:
    """(N,) float64: what a sample's side is drawn by, its group's lot where it is of one, else its own."""
    if split.groups is not None:
        return lots_of(f"group {group}" for group in split.groups.tolist())
    return split.lots()


def spared(lots: np.ndarray, labels: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: whose lot, even in [0, 1), lies below `share`.

    So no image changes sides for others that come or go, but in classes where luck would leave less than three quarters of the share, or take
    more than one and a half: these follow the order of the lots. Of each class of LEAST lots or more at least one is held, and at most half.
    Samples of one lot are on one side; a lot counts with the class of its first sample.
    """
    places, first, inverse = np.unique(lots, return_index=True, return_inverse=True)
    held = np.zeros(len(places), bool)
    classes = labels[first]
    order = np.argsort(classes, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):  # of one class, the lowest lots first
        if len(members) >= LEAST:
            least, most = (max(1, round(times * share * len(members))) for times in (0.75, 1.5))
            count = min(max(int((places[members] < share).sum()), least), most, len(members) // 2)
            held[members[:count]] = True
    return held[inverse]
