"""What a part of a set holds, and what a hold-out does: of any labels, in any order, with any groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contray.data import Split, holdout, part
from contray.data.order import quotas

DETERMINED = settings(derandomize=True, deadline=None, max_examples=150)


class Labelled(Split):
    """A split of labels and groups alone."""

    def __init__(self, labels: np.ndarray | None, groups: np.ndarray | None = None, count: int = 0) -> None:
        super().__init__()
        self.labels, self.groups, self.count = labels, groups, count or len(labels if labels is not None else ())

    def __len__(self) -> int:
        return self.count


@st.composite
def label_vectors(draw: st.DrawFn) -> np.ndarray:
    """1 to 500 labels of 1 to 50 classes, of any balance, sorted or not."""
    size, classes = draw(st.integers(1, 500)), draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.random(classes) ** draw(st.sampled_from((0, 1, 6))) + 1e-9
    labels = rng.choice(classes, size, p=weights / weights.sum())
    return np.sort(labels) if draw(st.booleans()) else labels


@DETERMINED
@given(label_vectors(), st.integers(0, 520), st.integers(0, 5), st.data())
def test_a_part_has_its_size_and_every_class_its_share(labels: np.ndarray, count: int, seed: int, data: st.DataObject) -> None:
    ids = np.sort(np.random.default_rng(seed).permutation(len(labels))[: data.draw(st.integers(1, len(labels)))])
    found = part(ids, labels, count, seed)
    assert len(found) == min(count, len(ids))
    assert np.array_equal(found, np.unique(found)), "sorted, each once"
    assert np.isin(found, ids).all()
    assert np.array_equal(found, part(ids[::-1], labels, count, seed)), "the order of the ids does not matter"
    classes, sizes = np.unique(labels[ids], return_counts=True)
    drawn = np.array([(labels[found] == label).sum() for label in classes])
    shares = sizes * len(found) / len(ids)
    if len(classes) <= len(found):
        assert drawn.min() >= 1, "every class is there"
        rare = shares < 1
        assert (drawn[rare] == 1).all()
        if not rare.any():
            assert np.abs(drawn - shares).max() < 1
    else:
        assert np.abs(drawn - shares).max() < 1


def test_a_part_of_sorted_classes_sees_all_of_them() -> None:
    labels = np.repeat(np.arange(20), 50)  # as folders and Parquet shards list them
    for seed in range(3):
        assert np.bincount(part(np.arange(1000), labels, 100, seed) // 50, minlength=20).tolist() == [5] * 20


def test_a_part_of_alternating_labels_sees_both_without_reading_them() -> None:
    """Every 2nd, 4th, ... id would be of one class alone."""
    found = part(np.arange(4000), None, 1000, seed=0)
    assert 0.4 < (found % 2).mean() < 0.6
    assert np.array_equal(found // 4, np.arange(1000)), "spread over the whole order: one of each four"


def test_parts_of_another_seed_or_name_differ_and_the_same_are_the_same() -> None:
    labels = np.arange(600) % 7
    first = part(np.arange(600), labels, 70, 0)
    assert np.array_equal(first, part(np.arange(600), labels, 70, 0))
    assert not np.array_equal(first, part(np.arange(600), labels, 70, 1))
    assert not np.array_equal(first, part(np.arange(600), labels, 70, 0, "other"))


def test_of_more_classes_than_images_both_parts_see_the_same_ones() -> None:
    """A bank and queries that are drawn from 1000 classes must share theirs, else k-NN can be right about none."""
    labels = np.repeat(np.arange(1000), 10)
    fit, val = np.arange(10_000)[np.arange(10_000) % 10 > 0], np.arange(0, 10_000, 10)
    bank, queries = part(fit, labels, 90, 0), part(val, labels, 10, 0)
    assert len(np.unique(labels[queries])) == 10
    assert set(labels[queries]) <= set(labels[bank])


def test_the_luck_of_a_class_is_its_own() -> None:
    """Of more classes than images: which ones are taken does not depend on rare classes that one part alone has."""
    labels = np.repeat(np.arange(200), 10)
    some = np.arange(1500)
    assert set(labels[part(some, labels, 10, 0)]) <= set(labels[part(np.arange(2000), labels, 190, 0)])
    assert len(part(np.arange(10), np.full(10, -1), 3, 0)) == 3


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([50, 50], 10, [5, 5]),
        ([900, 100], 10, [9, 1]),
        ([990, 10], 10, [9, 1]),  # a tenth of an image: one
        ([997, 1, 1, 1], 100, [97, 1, 1, 1]),
        ([3, 3, 3], 2, [0, 1, 1]),
        ([5, 1], 5, [4, 1]),
        ([1, 1, 1], 0, [0, 0, 0]),
    ],
)
def test_quotas(sizes: list[int], count: int, expected: list[int]) -> None:
    assert quotas(np.array(sizes), count, np.arange(len(sizes))).tolist() == expected


@DETERMINED
@given(label_vectors(), st.sampled_from((0.01, 0.1, 0.25, 0.5)), st.integers(0, 5), st.sampled_from((1, 2, 5)))
def test_a_holdout_is_of_every_class_and_keeps_groups_together(labels: np.ndarray, fraction: float, seed: int, size: int) -> None:
    groups = None
    if size > 1:
        groups = np.arange(len(labels)) // size
        labels = labels[groups * size]  # a group is of one class
    split = Labelled(labels, groups)
    fit, val = holdout(split, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([fit, val])), np.arange(len(labels))), "each image on one side"
    assert np.array_equal(np.concatenate([fit, val]), np.concatenate([np.sort(fit), np.sort(val)]))
    assert np.array_equal(val, holdout(split, fraction, seed)[1])
    names = np.arange(len(labels)) if groups is None else groups
    assert not np.intersect1d(names[fit], names[val]).size
    for label in np.unique(labels):
        members, held = np.unique(names[labels == label]), np.unique(names[val][labels[val] == label])
        if len(members) == 1:
            assert not len(held), "a class of one group is not taken from what fits"
        else:
            assert 1 <= len(held) < len(members)
            assert abs(len(held) - fraction * len(members)) <= 1
