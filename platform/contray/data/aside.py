"""A test set where there is none: a share of the labelled images, of each class its own, that never trains."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

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
    keys, known, held = keys_of(train), train.known, np.zeros(len(train), bool)
    held[known] = spared([keys[i] for i in known.tolist()], train.labels[known], share)
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


def keys_of(split: Split) -> list[str]:
    """What a sample's side is drawn by: its group's number where it is of one, else the name by which the split knows it, else its number."""
    if split.groups is not None:
        return [f"group {group}" for group in split.groups.tolist()]
    return [split.key(i) for i in range(len(split))]


def spared(keys: Sequence[str], labels: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: whom a hash of its key, even in [0, 1), puts below `share`.

    So no image changes sides for others that come or go, but in classes where luck would leave less than three quarters of the share, or take
    more than one and a half: these follow the order of the hashes. Of each class of LEAST keys or more at least one is held, and at most half.
    Samples of one key are on one side; a key counts with the class of its first sample.
    """
    names, first, inverse = np.unique(np.array(keys, dtype=object).astype(str), return_index=True, return_inverse=True)
    places = np.array([_place(name) for name in names.tolist()])
    held = np.zeros(len(names), bool)
    classes = labels[first]
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        if len(members) >= LEAST:
            lowest = members[np.argsort(places[members], kind="stable")]
            least, most = (max(1, round(times * share * len(members))) for times in (0.75, 1.5))
            count = min(max(int((places[members] < share).sum()), least), most, len(members) // 2)
            held[lowest[:count]] = True
    return held[inverse]


def _place(key: str) -> float:
    """In [0, 1), the same on every machine; surrogates stand for bytes of a name that are no text."""
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=7).digest(), "big") / 2**56
