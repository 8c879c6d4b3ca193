"""What lists say of a source: which of its training images train (`data.subset`), and whose labels are known (`data.labels`).

Neither moves the test set: it is what it is without them. Images of it that a list names are counted and stay there.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np

from ..config.sections import DataConfig
from ..errors import ConfigError, shown
from .aside import part_of
from .finding import AMBIGUOUS, MISSING, find
from .layout import alikes, listing, plain
from .lists import Listed, read_list
from .splits import Source, Split

MOST_MISSING = 0.01  # share of a list's names that may fit no image of the source; one may always, unless it is the only one


def narrowed(source: Source, config: DataConfig) -> Source:
    """The source of which those images alone train that data.subset names. Raises ConfigError where the list is of other images."""
    if not config.subset:
        return source
    listed = replace(read_for(source, "data.subset", config.subset), labels=None)
    train, note = places(source, listed)
    ids = np.unique(train)
    words = f"{len(ids):,} of {len(source.train):,} training images train, those that {listed.place} names{note}"
    return replace(source, train=part_of(source.train, ids), notes=[*source.notes, words])


def labelled(source: Source, config: DataConfig) -> Source:
    """The source with the labels that data.labels gives, where it has none of its own; else as it is."""
    if not config.labels or source.train.labels is not None:
        return source
    pairs = read_for(source, "data.labels", config.labels)
    if pairs.labels is None:
        raise ConfigError(
            "data.labels",
            f"{source.name} has no labels, and {pairs.place} gives none; write NAME LABEL on each line, or columns name and label",
        )
    train, note = places(source, pairs, tests=True)
    foreign = next((label for label in pairs.labels if re.search("[\ud800-\udfff]", label)), "")
    if foreign:  # bytes as they are in a file's name; in a label they would be in every table and page
        raise ConfigError("data.labels", f"{pairs.place} is not written in UTF-8: it has a label '{foreign}'; write it as UTF-8")
    texts = [plain(label) for label in pairs.labels]
    classes = sorted(set(texts), key=lambda name: (0, int(name), name) if re.fullmatch(r"\d{1,18}", name) else (1, 0, name))
    numbers = {name: number for number, name in enumerate(classes)}
    count = len(source.train)
    labels = _spread(pairs, train, np.array([numbers[text] for text in texts], np.int64), count + len(source.test or ()))
    classes = [shown(name) for name in classes]
    given = {"train": _copy(source.train, labels[:count], classes)}
    tests = np.flatnonzero(labels[count:] >= 0)
    if source.test is not None and len(tests):
        some = source.test if len(tests) == len(source.test) else part_of(source.test, tests)
        given["test"] = _copy(some, labels[count:][tests], classes)
        note += (
            f"; {len(tests):,} of {len(source.test):,} test images have one, and test" if len(tests) < len(source.test) else ""
        )
    words = (
        f"{pairs.place} gives {(labels[:count] >= 0).sum():,} of {count:,} training images a label ({len(classes)} classes){note}"
    )
    return replace(source, **given, notes=[*source.notes, words, *alikes(numbers)], listed=pairs.digest)


def restricted(source: Source, config: DataConfig) -> Source:
    """The source of whose labels those alone are known that data.labels names. Raises ConfigError where it says others than the source."""
    if not config.labels or source.listed:
        return source
    listed = read_for(source, "data.labels", config.labels)
    ids, note = named(source, listed)
    assert source.train.labels is not None
    labels = np.full(len(source.train), -1)
    labels[ids] = source.train.labels[ids]
    words = f"{len(ids):,} of {len(source.train):,} labels are known, those that {listed.place} names{note}"
    train = _copy(source.train, labels, list(source.train.classes))
    return replace(source, train=train, notes=[*source.notes, words], listed=listed.digest)


def read_for(source: Source, key: str, place: str) -> Listed:
    """A list, in the way by which most of its names are images of the source: text as names alone or as names and labels, backslashes as they
    stand or as Windows' slashes. Raises ConfigError, of `key`, where nothing can be read."""
    listed = read_list(key, place)
    ways = [listed, *filter(None, [listed.split])]
    ways += [replace(way, names=[name.replace("\\", "/") for name in way.names]) for way in ways if "\\" in "".join(way.names)]
    if len(ways) == 1:
        return listed
    splits = [source.train, *([] if source.test is None else [source.test])]
    return max(ways, key=lambda way: (find(splits, way.names) != MISSING).sum())  # of equals the first


def named(source: Source, listed: Listed) -> tuple[np.ndarray, str]:
    """(ids, sorted, of the training images that a list names, a note). Their labels are the source's: raises ConfigError where the list's differ."""
    train, note = places(source, listed)
    if listed.labels is not None:
        _check_agree(source.train, listed, train)
    return np.unique(train[train >= 0]), note


def places(source: Source, listed: Listed, tests: bool = False) -> tuple[np.ndarray, str]:
    """(the training images named, a note on the other names). tests: (M,) of all names instead, MISSING where there is none, those of test
    images counted on from the training images.

    Raises ConfigError where a name means several images, where more names than MOST_MISSING mean none, and where none trains.
    """
    key, place, count = listed.key, listed.place, len(source.train)
    both = [source.train, *([] if source.test is None else [source.test])]
    found = find(both if source.tested else both[:1], listed.names)  # what was set aside lies among what trains
    left = np.flatnonzero(found == MISSING)
    if len(both) > 1 and not source.tested and len(left):
        others = find(both[1:], [listed.names[i] for i in left.tolist()])
        found[left] = np.where(others < 0, others, others + count)
    unclear, missing = ([listed.names[i] for i in np.flatnonzero(found == kind).tolist()] for kind in (AMBIGUOUS, MISSING))
    if unclear:
        raise ConfigError(
            key,
            f"{len(unclear):,} names of {place} fit several images of {source.name} ({listing(unclear, 3)}); give paths relative to the source",
        )
    if len(missing) > max(1, MOST_MISSING * len(found)) or len(missing) == len(found):
        raise ConfigError(
            key,
            f"{len(missing):,} of {len(found):,} names of {place} are no image of {source.name} ({listing(missing, 3)}; its own are such as "
            f"{listing([source.train.key(0)])}); is it the list of another set?",
        )
    tested = int((found >= count).sum())
    notes = [f"{tested:,} that it names are test images and stay so"] if tested else []
    notes += [f"{len(missing):,} that it names are not there ({listing(missing, 3)})"] if missing else []
    note = "".join(f"; {each}" for each in notes)
    if not ((found >= 0) & (found < count)).any():
        raise ConfigError(key, f"no training image of {source.name} is named by {place}{note}")
    if tests:
        return found, note
    if listed.labels is not None:
        return np.where(found < count, found, MISSING), note
    return found[(found >= 0) & (found < count)], note


def _spread(listed: Listed, found: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
    """(count,) the label of each image, -1 where none is said. Raises ConfigError where an image is said to be two things."""
    labels = np.full(count, -1)
    there = np.flatnonzero(found >= 0)
    labels[found[there]] = numbers[there]
    twice = there[labels[found[there]] != numbers[there]]
    if len(twice):
        raise ConfigError(listed.key, f"{listed.place} gives {listed.names[int(twice[0])]} two labels; leave one")
    return labels


def _check_agree(split: Split, listed: Listed, found: np.ndarray) -> None:
    assert split.labels is not None
    assert listed.labels is not None
    numbers = {plain(name): number for number, name in enumerate(split.classes)}
    if not set(map(plain, listed.labels)) & numbers.keys():
        numbers = {str(number): number for number in range(len(split.classes))}
    unknown = sorted({label for label in listed.labels if plain(label) not in numbers})
    if unknown:
        raise ConfigError(
            listed.key,
            f"{listed.place} has the label {listing(unknown, 3)}, which is no class of the source ({listing(split.classes, 10)}); "
            "with --data.label_column '' the list's alone count",
        )
    said = np.array([numbers[plain(label)] for label in listed.labels])
    there = found >= 0
    other = np.flatnonzero(there)[split.labels[found[there]] != said[there]]
    if len(other):
        raise ConfigError(
            listed.key,
            f"{listed.place} gives {len(other):,} images other labels than the source (the first is {listed.names[int(other[0])]}); "
            "with --data.label_column '' the list's alone count",
        )


def _copy(split: Split, labels: np.ndarray, classes: list[str]) -> Split:
    made = copy.copy(split)
    made.labels, made.classes = labels, classes
    return made
