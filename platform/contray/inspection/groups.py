"""Groups of equal images with their names, those that spoil a verdict first; and which images are left when each is there once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import shown
from .duplicates import Duplicates
from .gather import Looked

MOST_NEAR = 0.2  # of the images of a set: of photos that nobody drew from a film it is a few in a hundred


@dataclass(frozen=True)
class Group:
    """Equal images. kind: by "bytes", by "pixels", or "near"; members: (split, place in what was looked at, name, class or "")."""

    kind: str
    members: tuple[tuple[str, int, str, str], ...]

    @property
    def across(self) -> bool:
        """Whether it stands in training and in test."""
        return len({split for split, *_ in self.members}) > 1

    @property
    def labels(self) -> list[str]:
        """The classes that its images have."""
        return sorted({label for *_, label in self.members if label})

    @property
    def words(self) -> str:
        """Its images in a line."""
        several = len(self.labels) > 1
        names = [
            f"{_named(split, name)}{f' ({label})' if label and several else ''}" for split, _, name, label in self.members[:4]
        ]
        more = len(self.members) - 4
        return " = ".join(names) + (f" and {more:,} more" if more > 0 else "")


def _named(split: str, name: str) -> str:
    """The name, and the split where it does not say that itself."""
    return name if name.lower().startswith(split) else f"{split} {name}"


def groups(found: Sequence[Looked], equal: Duplicates) -> list[Group]:
    """Those across splits, then those of several classes, then the largest."""
    starts = np.cumsum([0, *(len(each.ids) for each in found)]).tolist()
    listed = []
    for kind, members in zip(equal.kind, equal.members(), strict=True):
        named = []
        for place in members.tolist():
            at = 0 if place < starts[1] else 1
            each, own = found[at], place - starts[at]
            labels = each.labels
            label = "" if labels is None or labels[own] < 0 else shown(each.split.classes[int(labels[own])])
            named.append((each.name, own, shown(each.key(own)), label))
        listed.append(Group(kind, tuple(named)))
    return sorted(listed, key=lambda group: (not group.across, len(group.labels) < 2, -len(group.members)))


def kept(train: Looked, equal: Duplicates) -> np.ndarray:
    """(n,) bool: the readable training images, but those that are, or nearly are, one that stays before them or one that tests.

    Where over MOST_NEAR of all images nearly are another one, that tells nothing in this set (drawings, frames of films): equal ones alone go.
    """
    stay, beside = train.read.copy(), defaultdict[int, set[int]](set)
    alike = len(np.unique(equal.pairs)) > MOST_NEAR * len(np.unique(equal.same))
    for one, other in equal.pairs.tolist() if not alike else ():
        beside[one].add(other)
        beside[other].add(one)
    several = np.flatnonzero(equal.group >= 0)
    there = set(equal.same[several[several >= len(stay)]].tolist())  # what tests
    for place in several[several < len(stay)].tolist():
        own = int(equal.same[place])
        if own in there or not there.isdisjoint(beside[own]):
            stay[place] = False
        else:
            there.add(own)
    return stay


def names_to_keep(train: Looked, stay: np.ndarray) -> str:
    """A name per line. Names that a line cannot hold are left out, and the list says so."""
    found = [train.key(place) for place in np.flatnonzero(stay).tolist()]
    names = [
        f"./{name}" if name.startswith("#") else name for name in found if name.strip() == name and len(name.splitlines()) == 1
    ]
    dropped = int(len(stay) - stay.sum())
    lines = [f"# {len(names)} of {len(stay)} training images: {dropped} are broken, there twice or nearly so, or in the test set"]
    if len(names) < len(found):
        lines.append(f"# {len(found) - len(names)} more would stay, but no line of a list can hold their names: rename them")
    return "\n".join([*lines, *names, ""])


def counts(listed: Sequence[Group]) -> Mapping[str, int]:
    """train in test: training images that stand in the test set; repeated: images that a group has beyond its first, within one split; ..."""
    within = [group for group in listed if not group.across]
    return {
        "groups": len(listed),
        "exact_groups": sum(group.kind != "near" for group in listed),
        "near_groups": sum(group.kind == "near" for group in listed),
        "train_in_test": sum(split == "train" for group in listed if group.across for split, *_ in group.members),
        "tested_twice": sum(split == "test" for group in listed if group.across for split, *_ in group.members),
        "two_labels": sum(len(group.labels) > 1 for group in listed),
        "repeated": sum(len(group.members) - 1 for group in within),
    }
