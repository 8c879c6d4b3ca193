"""Matches the names in a list, as other people and tools write them, to the samples of a split.

A name is the split's own key (`Split.key`): a file's path relative to the source, of Parquet the file's name and the row, of other sets the
number. Where no key is the name, one that ends like it is meant, whole parts of the path alone: the base name of a file in nested folders, a
path relative to a folder of the source, or to one above it. A#3 is A 3, as `contray embed` writes rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import shown
from .layout import plain
from .splits import Split

MISSING, AMBIGUOUS = -1, -2
_ROW = re.compile(r"#(\d+)$")


def find(splits: Sequence[Split], names: Sequence[str]) -> np.ndarray:
    """(M,) int64: the sample that each name means, by its place in the splits one after the other; MISSING where none does, AMBIGUOUS
    where several do.

    Keys are gone through as they come, and 8 bytes of each are held.
    """
    wanted = [_spelt(name) for name in names]
    keys = _hashes(_spelt(key) for split in splits for key in split.all_keys())
    count, found = _joined(_hashes(wanted), keys)
    left = np.flatnonzero(count == 0)
    if len(left):
        depths = np.fromiter((_spelt(key).count("/") + 1 for split in splits for key in split.all_keys()), np.int64, len(keys))
        of_names = np.array([wanted[i].count("/") + 1 for i in left.tolist()])
        for depth in np.unique(of_names).tolist():
            asked = left[of_names == depth]
            for other in np.unique(depths).tolist():
                most = min(depth, other)
                at = np.flatnonzero(depths == other)
                tails = _hashes(_tail(_spelt(key), most) for split in splits for key in split.all_keys())[at]
                more, first = _joined(_hashes(_tail(wanted[i], most) for i in asked.tolist()), tails)
                count[asked] += more
                found[asked] = np.where(more > 0, at[first], found[asked])
    return np.where(count == 0, MISSING, np.where(count == 1, found, AMBIGUOUS))


def _spelt(name: str) -> str:
    """One spelling of a name and a key."""
    if name.isascii() and name.isprintable() and "#" not in name and not name.startswith((".", " ")) and not name.endswith(" "):
        return name
    name = shown(plain(name)).strip()
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return _ROW.sub(r" \1", name)


def _tail(name: str, parts: int) -> str:
    return "/".join(name.rsplit("/", parts)[-parts:])


def _hashes(names: Iterable[str]) -> np.ndarray:
    """64 bits of each, the same within this process."""
    return np.fromiter(map(hash, names), np.int64)


def _joined(wanted: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each of (M,) values: how often it is among the keys (N,), and its first place there, 0 where it is not."""
    order = np.argsort(keys, kind="stable")
    lined = keys[order]
    first = np.searchsorted(lined, wanted, "left")
    count = np.searchsorted(lined, wanted, "right") - first
    return count, np.append(order, 0)[np.where(count > 0, first, -1)]
