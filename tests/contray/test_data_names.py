"""Names that look the same, pictures beside their masks, and what network disks leave behind."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contray.config.sections import DataConfig
from contray.data import open_source
from contray.data.layout import alike, alikes, plain, scan
from contray.data.pixels import BrokenImage
from contray.data.splits import EncodedSplit
from contray.errors import ConfigError, DataError

from .test_data_layout import FEW, PNG, classes, grow, labels_of, opened

APART = unicodedata.normalize("NFD", "café")
JOINED = unicodedata.normalize("NFC", "café")


def test_a_class_is_one_in_both_codings_of_its_accents(tmp_path: Path) -> None:
    source = opened(grow(tmp_path / "splits", *classes("train", of=(JOINED, "dog")), *classes("test", of=(APART, "dog"), per=1)))
    assert source.train.classes == [JOINED, "dog"]
    assert source.test is not None
    assert labels_of(source.test) == [JOINED, "dog"]
    both = opened(
        grow(tmp_path / "flat", *(f"{name}/{i}.png" for name in (JOINED, APART, "dog") for i in range(2))), test_share=0.0
    )
    assert Counter(labels_of(both.train)) == {JOINED: 4, "dog": 2}


@FEW
@given(st.lists(st.sampled_from(["é", "e\u0301", "Å", "A\u030a", "\u212b", "n", "ñ", "n\u0303"]), min_size=2, max_size=8))
def test_labels_of_parquet_join_in_any_coding(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    root = tmp_path_factory.mktemp("words")
    for split, rows in (("train", words), ("test", [unicodedata.normalize("NFD", word) for word in words])):
        pq.write_table(pa.table({"image": pa.array([PNG] * len(rows)), "label": rows}), root / f"{split}.parquet")
    source = opened(root)
    assert labels_of(source.train) == [plain(word) for word in words] == labels_of(source.test)
    assert source.train.classes == sorted({plain(word) for word in words})


def test_names_that_differ_in_case_or_spaces_are_said(tmp_path: Path) -> None:
    (note,) = alikes(["cat", "dog", "Cat", "cat "])
    assert note == "the classes 'Cat' and 'cat' differ in case or spaces alone and count as two (and 1 more such pairs)"
    assert (alike("Cat", ["cat", "dog"]), alike("cat", ["cat", "dog"])) == ("cat", "")
    assert note[:30] in " ".join(opened(grow(tmp_path / "flat", *classes(".", of=("Cat", "cat", "cat ")))).notes)
    with pytest.raises(
        DataError, match=r"'cat', which is no class of train .*; it differs from 'Cat' in case or spaces alone, rename one"
    ):
        opened(grow(tmp_path / "splits", *classes("train", of=("Cat", "dog")), *classes("test")))
    for split, rows in (("train", ["Cat", "dog"]), ("test", ["cat", "dog"])):
        pq.write_table(pa.table({"image": pa.array([PNG, PNG]), "label": rows}), tmp_path / f"{split}.parquet")
    (tmp_path / "flat").rename(tmp_path / ".flat")
    (tmp_path / "splits").rename(tmp_path / ".splits")
    with pytest.raises(ConfigError, match="it differs from 'Cat' in case or spaces alone"):
        opened(tmp_path)


@pytest.mark.parametrize(("rows", "other"), [(["0", "1"], [0, 1]), ([0, 1], ["0", "1"])])
def test_numbers_and_their_digits_are_no_equals_and_that_is_said(tmp_path: Path, rows: list, other: list) -> None:
    for split, values in (("train", rows), ("test", other)):
        pq.write_table(pa.table({"image": pa.array([PNG, PNG]), "label": values}), tmp_path / f"{split}.parquet")
    with pytest.raises(ConfigError, match="write both as text or both as numbers"):
        opened(tmp_path)


@pytest.mark.parametrize("kind", [pa.float64(), pa.bool_(), pa.list_(pa.int64())])
def test_what_is_no_label_is_said_with_a_way_out(tmp_path: Path, kind: pa.DataType) -> None:
    rows = pa.array([[0], [1]], kind) if pa.types.is_list(kind) else pa.array([0, 1]).cast(kind)
    pq.write_table(pa.table({"image": pa.array([PNG, PNG]), "label": rows}), tmp_path / "train.parquet")
    with pytest.raises(
        ConfigError, match=r"labels are integers or strings: cast it, .* or give --data\.label_column '' for none"
    ):
        opened(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("images/0.png", "masks/0.png"),
        ("JPEGImages/0.png", "SegmentationClass/0.png", "SegmentationObject/0.png"),
        ("images/0.png", "annotations/trimaps/0.png"),
        ("set/images/0.png", "set/labels/0.png"),
        ("train/images/0.png", "train/masks/0.png", "test/images/0.png", "test/masks/0.png"),
    ],
)
def test_pictures_beside_their_masks_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"beside .*, which are no classes; move .* away"):
        opened(grow(tmp_path, *names))


def test_images_called_as_masks_of_others_are_said(tmp_path: Path) -> None:
    names = [f"{name}/{i}{end}.png" for name in ("benign", "malignant") for i in range(2) for end in ("", "_mask", "_mask_1")]
    source = opened(grow(tmp_path / "a", *names), test_share=0.0)
    assert len(source.train) == 12
    assert "8 images are named as if they were masks of others (benign/0_mask.png beside benign/0.png)" in " ".join(source.notes)
    faces = opened(
        grow(tmp_path / "b", *(f"{name}/{i}.png" for name in ("mask", "no_mask") for i in range(2)), "mask/x_mask.png")
    )
    assert "masks of others" not in " ".join(faces.notes)


def test_folders_that_are_no_classes_are_said(tmp_path: Path) -> None:
    source = opened(grow(tmp_path, *(f"fold{i}/{name}/0.png" for i in range(2) for name in "ab")))
    assert source.train.labels is None
    assert source.notes == [
        "no labels: of the folders fold0, fold1 fewer than two hold images themselves (labels are the names of folders: CLASS/*.jpg)"
    ]


def test_leftovers_of_network_disks_are_no_classes(tmp_path: Path) -> None:
    left = ("Network Trash Folder", "@Recycle", "#snapshot", "Temporary Items", "RECYCLER", "found.000", "LOST.DIR", "a/@eaDir")
    found = scan(grow(tmp_path, "a/0.png", "b/0.png", *(f"{name}/0.png" for name in left)))
    assert found.images == ["a/0.png", "b/0.png"]
    assert found.skipped == {"hidden folder(s)": len(left)}


def test_a_table_of_labels_is_said_to_be_unread(tmp_path: Path) -> None:
    source = opened(grow(tmp_path, "images/0.png", "images/1.png", "labels.csv"))
    assert source.notes == [
        "no labels: they come from the names of folders, and .csv files are not read",
        "skipped: 1 .csv",
    ]
    labelled = opened(grow(tmp_path / "set", *classes("train"), "labels.csv"))
    assert "not read" not in " ".join(labelled.notes)


@pytest.mark.parametrize("first", [False, True])
def test_huge_images_that_no_sample_showed_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    huge = cv2.imencode(".png", np.full((100, 100, 3), 9, np.uint8))[1].tobytes()
    images = [huge if (i == 0) == first else PNG for i in range(4)]
    for i, data in enumerate(images):
        (tmp_path / f"{i}.png").write_bytes(data)
    (tmp_path / "4.png").write_bytes(b"")
    for limit, held in ((50_000, first), (200_000, True)):
        split = open_source(DataConfig(source=str(tmp_path), memory_gb=limit / 1e9)).train
        assert isinstance(split, EncodedSplit)
        monkeypatch.setattr(split, "decoded_bytes", lambda: 0.0)
        split.prepare()
        assert (split._cache is not None) == held
        assert [split.image(i, None).shape[0] for i in range(4)] == [100 if data is huge else 4 for data in images]
        with pytest.raises(BrokenImage):
            split.image(4, None)
