"""The test set that is set aside where there is none: of each class its share, by names alone, and never trained on."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contray.config import RunConfig
from contray.config.sections import DataConfig
from contray.data import ArraySplit, EncodedSplit, Source, open_source
from contray.data.aside import LEAST, lots_of_split, set_aside, spared
from contray.data.digests import lots_of

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=[]), min_size=1, max_size=12)


def png(value: int) -> bytes:
    return cv2.imencode(".png", np.full((6, 8, 3), value % 256, np.uint8))[1].tobytes()


def folder(root: Path, **classes: int) -> Path:
    """So many images of each class, all different."""
    value = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(png(value))
            value += 1
    return root


def opened(source: Path, **keys) -> Source:
    return open_source(DataConfig(source=str(source), **keys))


@settings(max_examples=80, deadline=None)
@given(
    classes=st.dictionaries(NAMES, st.integers(0, 5), min_size=1, max_size=60), more=st.dictionaries(NAMES, st.integers(0, 5)),
    share=st.floats(0.01, 0.5),
)  # fmt: skip
def test_each_class_spares_its_share_and_nobody_changes_sides_for_others(classes: dict, more: dict, share: float) -> None:
    keys, labels = list(classes), np.array(list(classes.values()))
    held = spared(lots_of(keys), labels, share)
    for label in range(6):
        of_class, count = labels == label, int((labels == label).sum())
        assert held[of_class].sum() <= min(count // 2, max(1, round(1.5 * share * count)))
        assert held[of_class].any() == (count >= LEAST)
    order = np.random.default_rng(0).permutation(len(keys))
    assert np.array_equal(spared(lots_of(keys)[order], labels[order], share), held[order])
    grown = {**more, **classes}
    after = dict(zip(grown, spared(lots_of(grown), np.array(list(grown.values())), share).tolist(), strict=True))
    changed = {key: classes[key] for key, was in zip(keys, held.tolist(), strict=True) if after[key] != was}
    for key, label in changed.items():  # only where luck was bounded, before or after
        counts = [sum(each == label for each in of.values()) for of in (classes, grown)]
        tests = [int(held[labels == label].sum()), sum(after[each] for each in grown if grown[each] == label)]
        assert any(
            count < LEAST or test in (max(1, round(0.75 * share * count)), max(1, round(1.5 * share * count)), count // 2)
            for count, test in zip(counts, tests, strict=True)
        ), (key, counts, tests)


def test_the_share_is_met_and_large_classes_stay_where_they_were() -> None:
    names, labels = [f"photo {i}.jpg" for i in range(20_000)], np.arange(20_000) % 4
    held = spared(lots_of(names), labels, 0.1)
    assert [abs(held[labels == label].mean() - 0.1) < 0.015 for label in range(4)] == [True] * 4
    assert np.array_equal(spared(lots_of(names[:9000]), labels[:9000], 0.1), held[:9000])
    few = spared(lots_of(names[:400]), np.arange(400) // 40, 0.1)
    assert all(3 <= few[at : at + 40].sum() <= 6 for at in range(0, 400, 40))


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_a_folder_without_a_test_set_has_one_that_never_trains(tmp_path: Path, memory_gb: float) -> None:
    whole = opened(folder(tmp_path / "photos", cat=40, dog=20, eel=2), test_share=0.0, memory_gb=memory_gb)
    assert whole.test is None
    assert len(whole.train) == 62
    source = opened(tmp_path / "photos", memory_gb=memory_gb)
    train, test = source.train, source.test
    assert test is not None
    assert isinstance(train, EncodedSplit)
    assert len(train) + len(test) == 62
    assert test.classes == train.classes == ["cat", "dog", "eel"]
    assert test.labels is not None
    assert train.labels is not None
    assert set(test.labels.tolist()) == {0, 1}
    assert source.tested == "a held-out tenth of photos/"
    assert f"({len(test)} images) tests, and never trains; with --data.test_share 0 all train" in source.notes[-1]
    for split in (train, test):
        split.prepare()
    seen = [int(split.image(i, None)[0, 0, 0]) for split in (train, test) for i in range(len(split))]
    assert sorted(seen) == list(range(62))
    assert [Path(split.describe(i)).parent.name for split in (train, test) for i in range(len(split))] == [
        train.classes[label] for label in [*train.labels.tolist(), *test.labels.tolist()]
    ]
    sides = {Path(test.describe(i)).relative_to(tmp_path / "photos") for i in range(len(test))}
    (tmp_path / "photos").rename(tmp_path / "moved")
    (tmp_path / "moved" / "dog" / "new.png").write_bytes(png(200))
    moved = opened(tmp_path / "moved").test
    assert moved is not None
    there = {Path(moved.describe(i)).relative_to(tmp_path / "moved") for i in range(len(moved))}
    assert sides <= there | {Path("dog/new.png")}
    assert there - sides <= {Path("dog/new.png")}
    assert train.content() != whole.train.content()


def test_parquet_by_rows_and_own_groups_on_one_side(tmp_path: Path) -> None:
    rows = pa.table({"image": [png(i) for i in range(40)], "label": ["a", "b"] * 20, "depth": [png(i + 100) for i in range(40)]})
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=7)
    source = opened(tmp_path / "rows.parquet")
    assert source.test is not None
    assert source.tested == "a held-out tenth of rows"
    for split in (source.train, source.test):
        for i in range(len(split)):
            assert split.value(i, "depth", None)[0, 0, 0] == split.image(i, None)[0, 0, 0] + 100
    lazy = opened(tmp_path / "rows.parquet", memory_gb=0)
    source.train.prepare()  # by the stream of rows
    assert all(np.array_equal(source.train.image(i, None), lazy.train.image(i, None)) for i in range(len(lazy.train)))

    made = ArraySplit("mine", np.arange(60, dtype=np.uint8)[:, None, None, None].repeat(3, 3), np.arange(60) % 2, ["a", "b"])
    made.groups = np.arange(60) // 4
    made.broken = {59: "torn"}
    grouped = set_aside(Source("mine", made, None), 0.2, "mine")
    assert grouped.test is not None
    assert grouped.train.groups is not None
    assert grouped.test.groups is not None
    assert not set(grouped.train.groups.tolist()) & set(grouped.test.groups.tolist())
    seen = [int(split.image(i, None)[0, 0, 0]) for split in (grouped.train, grouped.test) for i in range(len(split))]
    assert sorted(seen) == list(range(60))
    for split in (grouped.train, grouped.test):
        split.prepare()
    assert len(grouped.train.broken) + len(grouped.test.broken) == 1


def test_nothing_is_set_aside_where_it_would_take_what_training_or_picking_needs(tmp_path: Path) -> None:
    assert opened(folder(tmp_path / "few", cat=2, dog=2)).test is None
    assert opened(folder(tmp_path / "one", cat=3, dog=1)).test is None
    assert opened(folder(tmp_path / "none", cat=30), label_column="").test is None
    for part in ("train", "test"):
        folder(tmp_path / "both" / part, cat=20, dog=20)
    both = opened(tmp_path / "both")
    assert (len(both.train), len(both.test or []), both.tested) == (40, 40, "")


def test_a_run_of_before_there_was_a_share_keeps_its_images() -> None:
    config = RunConfig.make("simclr")
    text = config.to_yaml()
    assert RunConfig.from_yaml(text) == config
    older = "\n".join(line for line in text.splitlines() if "test_share" not in line)
    assert RunConfig.from_yaml(older).data.test_share == 0
    assert RunConfig.from_yaml("train.epochs: 3").data.test_share == 0.1
    assert np.array_equal(lots_of_split(ArraySplit("x", np.zeros((2, 1, 1, 3), np.uint8), None, [])), lots_of(["0", "1"]))
