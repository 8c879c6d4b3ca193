"""Folders that people have: which images are there, which of them train and test, and under what names; or a refusal in one line."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from contray.config.sections import DataConfig
from contray.data import announced, content, fingerprint, layout, open_source
from contray.data.layout import besides_splits, scan, sort_out, splits_in
from contray.data.places import Remote
from contray.errors import ConfigError, DataError, UserError, shown
from contray.storage.folder import Storage

FEW = settings(max_examples=80, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def png(value: int = 0) -> bytes:
    return cv2.imencode(".png", np.full((4, 4, 3), value, np.uint8))[1].tobytes()


PNG = png()


def grow(root: Path, *names: str | bytes) -> Path:
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(PNG)
    return root


def classes(*splits: str, per: int = 2, of: tuple[str, ...] = ("cat", "dog")) -> list[str]:
    return [f"{split}/{name}/{i}.png" for split in splits for name in of for i in range(per)]


def opened(root: Path, **keys):
    return open_source(DataConfig(source=str(root), **keys))


def names_of(split, root: Path) -> list[str]:
    return [os.path.relpath(split.describe(i), root) for i in range(len(split))]


def labels_of(split) -> list[str]:
    return [split.classes[label] for label in split.labels]


def attempt(root: Path):
    """The source, or None where it is refused in one line."""
    try:
        return opened(root)
    except UserError as error:
        message = str(error)
    message.encode()
    assert "\n" not in message
    return None


def refusal(root: Path, **config) -> str:
    with pytest.raises(UserError) as caught:
        open_source(DataConfig(source=str(root), **config))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- what an image is


class Flat:
    """Google's store: of a folder that was not made as one nothing is listed."""

    type_name = "gcs"

    def get_file_info(self, asked: fs.FileSelector) -> list[fs.FileInfo]:
        found = fs.LocalFileSystem().get_file_info(asked)
        return [info for info in found if info.type == fs.FileType.File]


def test_a_store_that_tells_no_folders_is_listed_as_one_that_does(tmp_path: Path) -> None:
    grow(tmp_path, *classes("train", "test"), "a/.hidden/x.png", "b.txt", "deep/er/still/y.png", "__MACOSX/z.png")
    store = Storage(f"file://{tmp_path}")
    usual = scan(Remote(store))
    store.system = Flat()
    flat = scan(Remote(store))
    assert list(flat.images) == list(usual.images)
    assert "deep/er/still/y.png" in flat.images
    assert np.array_equal(np.asarray(flat.images.sizes), np.asarray(usual.images.sizes))
    assert (flat.folders, flat.skipped) == (usual.folders, usual.skipped)


def test_hidden_folders_are_no_classes_and_are_counted(tmp_path):
    grow(
        tmp_path,
        *classes("train", "test"),
        "train/.ipynb_checkpoints/0.png",
        "train/cat/._0.png",
        "train/__MACOSX/cat/0.png",
        "notes.txt",
    )
    grow(tmp_path, "train/cat/@eaDir/0.png", "test/Thumbs.db", "test/readme")
    source = opened(tmp_path)
    assert source.train.classes == source.test.classes == ["cat", "dog"]
    assert (len(source.train), len(source.test)) == (4, 4)
    (note,) = source.notes
    assert all(part in note for part in ("3 hidden folder(s)", "2 hidden file(s)", "1 .txt", "1 file(s) of no known suffix"))


def test_every_suffix_of_an_image_counts_in_any_case_and_underscores_do_too(tmp_path):
    grow(tmp_path, "_DSC0001.JPG", "a.gif", "b.JFIF", "c.avif", "d.PNG", "e.heic", "_f/g.TiF", "no.svg")
    source = opened(tmp_path)
    assert names_of(source.train, tmp_path) == ["_DSC0001.JPG", "_f/g.TiF", "a.gif", "b.JFIF", "c.avif", "d.PNG", "e.heic"]
    assert source.notes == ["skipped: 1 .svg"]


def test_each_real_folder_is_read_once_by_whatever_links(tmp_path):
    root, aside = grow(tmp_path / "data", *classes("train", "test")), grow(tmp_path / "aside", "0.png", "1.png")
    (root / "train/cat/back").symlink_to("..")
    (root / "train/cat/above").symlink_to(tmp_path)
    (root / "train/again").symlink_to("dog")  # sorts before the folder that it leads to, and does not take its place
    (root / "train/owl").symlink_to(aside)
    (root / "train/cat/2.png").symlink_to("0.png")
    (root / "train/cat/gone.png").symlink_to("nothing")
    (root / "train/cat/round.png").symlink_to("round.png")
    source = opened(root)
    assert Counter(labels_of(source.train)) == {"cat": 3, "dog": 2, "owl": 2}
    assert source.train.classes == source.test.classes == ["cat", "dog", "owl"]
    (note,) = source.notes
    assert "3 link(s) to folders that are read already or lie above" in note
    assert "2 link(s) to nothing" in note


def test_a_split_may_be_a_link(tmp_path):
    grow(tmp_path / "elsewhere", *classes("."))
    grow(tmp_path / "data", *classes("train"))
    (tmp_path / "data" / "test").symlink_to(tmp_path / "elsewhere")
    assert labels_of(opened(tmp_path / "data").test) == ["cat", "cat", "dog", "dog"]


def test_pipes_are_never_opened(tmp_path):
    grow(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    source = opened(tmp_path)
    assert names_of(source.train, tmp_path) == ["a.png"]
    assert source.notes == ["skipped: 1 pipe(s), socket(s) or device(s)"]
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(tmp_path / "pipe")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    grow(tmp_path, *classes("train"))
    real = os.scandir

    def closed(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(layout.os, "scandir", closed)
    assert "train/dog cannot be read (Permission denied)" in refusal(tmp_path)


def test_a_place_that_is_no_folder_of_images_is_refused(tmp_path):
    grow(tmp_path, "one.png", "arrow/data.bin", "arrow/.git/x.png")
    assert "is a single image; give the folder" in refusal(tmp_path / "one.png")
    assert "no image under" in refusal(tmp_path / "arrow")
    assert "1 .bin" in refusal(tmp_path / "arrow")
    with pytest.raises(ConfigError, match="not written in UTF-8"):
        open_source(DataConfig(source=os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xe9"))))


def test_very_deep_trees_are_read_or_refused_in_one_line(tmp_path):
    deep = "/".join(["d"] * 400)
    grow(tmp_path, f"{deep}/a.png")
    assert len(opened(tmp_path).train) == 1
    place = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(12):  # beyond what a path may have
            os.mkdir("e" * 250)
            os.chdir("e" * 250)
            os.mkdir("f" * 250)
            os.chdir("f" * 250)
    finally:
        os.chdir(place)
    assert "cannot be read (File name too long)" in refusal(tmp_path)


def test_names_of_any_bytes_train_and_are_shown_in_plain_text(tmp_path):
    odd = [b"caf\xe9", b"new\nline", b"\x1b[31mred", "\u732b\u3000\u00a0".encode()]
    for split in (b"train", b"test"):
        grow(tmp_path, *(split + b"/" + name + b"/\xff.png" for name in odd))
    source = opened(tmp_path)
    assert sorted(source.train.classes) == sorted([r"caf\xe9", r"new\nline", r"\x1b[31mred", "\u732b\u3000\u00a0"])
    assert labels_of(source.test) == labels_of(source.train) == source.train.classes
    for i in range(4):
        source.train.image(i, None)
        source.train.describe(i).encode()
    assert fingerprint(source, DataConfig())
    grow(tmp_path, b"test/\xe9\n/0.png")
    assert r"has '\xe9\n', which is no class of train" in refusal(tmp_path)


@FEW
@given(st.text(st.characters(categories=None), max_size=8))
def test_shown_text_is_one_line_that_can_be_encoded(text):
    once = shown(text)
    once.encode()
    assert len(once.splitlines()) <= 1
    assert shown(once) == once
    assert once == text or not text.isprintable() or "\\" in once


# ---------------------------------------------------------------- splits


SPLITS = [
    ("train", "test"), ("Train", "Test"), ("training", "testing"), ("trn", "tst"), ("TRAIN", "VALID"), ("train", "dev"), ("train", "eval"),
    ("train2017", "val2017"), ("data/train", "data/val"), ("images/Training", "images/Validation"), ("seg_train/seg_train", "seg_test/seg_test"),
    ("cifar_train", "cifar_test"), ("catsTrain", "catsTest"), ("a/b/train", "a/b/test"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "test"), SPLITS)
def test_splits_by_any_usual_name(tmp_path, train, test):
    grow(tmp_path, *classes(train, per=3), *classes(test, of=("dog", "cat")))
    source = opened(tmp_path)
    assert names_of(source.train, tmp_path) == classes(train, per=3)
    assert names_of(source.test, tmp_path) == sorted(classes(test))
    assert labels_of(source.test) == ["cat", "cat", "dog", "dog"]
    assert labels_of(source.train) == ["cat"] * 3 + ["dog"] * 3


def test_validation_beside_a_test_set_is_said_to_be_unused(tmp_path):
    source = opened(grow(tmp_path, *classes("train", "val", "Testing")))
    assert names_of(source.test, tmp_path) == classes("Testing")
    assert len(source.train) == 4
    assert any("val/ (4 images) is not used: Testing/ tests" in note for note in source.notes)


REFUSED = {
    "an unknown folder beside": ([*classes("train", "test"), "extra/0.png"], "'train' was taken for train", "'test' was taken for test", "extra is no split"),
    "a class called train": (["bus/0.png", "car/0.png", "train/0.png"], "'train' was taken for train", "bus, car is no split"),
    "no training set": (classes("test", "val"), "nothing is the training set"),
    "two training sets": (classes("train", "training", "test"), "both train, training could be train"),
    "one name for two": (classes("train_val", "test"), "train_val speaks of train and val"),
    "two configurations": (classes("a/train", "a/test", "b/train", "b/test"), "splits further down", "a/test, a/train, b/test, b/train"),
    "splits below classes": (classes("cat/train", "cat/test", "dog/train"), "splits further down"),
    "splits below the split": (classes("train/train", "train/val", "test"), "train, val, which are splits again"),
    "many pictures beside the splits": ([*classes("train", "test"), *(f"{i}.png" for i in range(6))], "6 images lie in", "beside train/"),
    "many pictures beside the classes": ([*classes("train"), *(f"train/{i}.png" for i in range(6))], "6 images lie in", "(cat, dog)"),
    "many pictures beside the test classes": ([*classes("train", "test"), *(f"test/{i}.png" for i in range(6))], "6 images lie in"),
    "a class of the test alone": ([*classes("train", "test"), "test/owl/0.png"], "test has 'owl', which is no class of train (cat, dog)"),
    "another spelling": ([*classes("train"), "test/Cat/0.png"], "test has 'Cat', which is no class of train"),
    "splits in file names": (["train_1.png", "train_2.png", "test_1.png"], "speak of splits"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_placed_is_refused(tmp_path, case):
    names, *said = REFUSED[case]
    message = refusal(grow(tmp_path, *names))
    assert message.startswith("data.source: ")
    for part in said:
        assert part in message


def test_a_test_set_without_images_is_not_taken_for_none(tmp_path):
    grow(tmp_path, *classes("train"), "test/0.npy")
    assert "test holds no image" in refusal(tmp_path)
    grow(tmp_path, *classes("val"))
    assert "test holds no image" in refusal(tmp_path)  # val does not step in unasked
    grow(tmp_path, "test/cat/0.png")
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "dev").mkdir()  # with a test set it would not be used anyway
    assert len(opened(tmp_path).test) == 1


def test_a_stray_picture_costs_no_labels(tmp_path):
    source = opened(grow(tmp_path, *classes("train", "test"), "train/sheet.png", "test/sheet.png", "cover.png"))
    assert labels_of(source.train) == labels_of(source.test) == ["cat", "cat", "dog", "dog"]
    assert [note.partition(",")[0] for note in source.notes] == [
        "left out: cover.png",
        "left out: sheet.png",
        "left out: sheet.png",
    ]


def test_test_images_in_no_folder_have_hidden_labels(tmp_path):
    source = opened(grow(tmp_path, *classes("train"), *(f"test/{i}.png" for i in range(9))))
    assert labels_of(source.train) == ["cat", "cat", "dog", "dog"]
    assert len(source.test) == 9
    assert source.test.labels is None
    assert "nothing is tested on them" in source.notes[0]


def test_folders_without_splits_are_classes_where_two_hold_images(tmp_path):
    source = opened(grow(tmp_path / "a", "cat/0.png", "dog/0.png", "dog/more/1.png", "sheet.png"))
    assert labels_of(source.train) == ["cat", "dog", "dog"]
    assert source.test is None
    assert "left out: sheet.png" in source.notes[0]
    assert "labels are the names of the 2 folders (cat, dog)" in source.notes[1]
    for name, images in {
        "one": ["cat/0.png", "1.png"],
        "deep": ["a/b/0.png", "c/d/0.png"],
        "many beside": ["cat/0.png", "dog/0.png", *(f"{i}.png" for i in range(6))],
    }.items():
        source = opened(grow(tmp_path / name, *images))
        assert (len(source.train), source.train.labels) == (len(images), None)


WORDS = ["train", "Test", "val", "cat", "dog", ".hidden", "__MACOSX", "data", "unknown"]
TREES = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), max_size=3), st.sampled_from(["a.png", "_b.JPG", "c.txt", ".d.png", "e.gif"])), min_size=1, max_size=14
)  # fmt: skip


@FEW
@given(TREES)
def test_random_folders_open_with_what_a_naive_reader_finds_or_are_refused(tree):
    with tempfile.TemporaryDirectory() as place:
        root = grow(Path(place), *("/".join([*folders, name]) for folders, name in tree))
        hidden = {".hidden", "__MACOSX"}
        there = {
            "/".join([*folders, name])
            for folders, name in tree
            if not hidden & set(folders) and name in ("a.png", "_b.JPG", "e.gif")
        }
        source = attempt(root)
        if source is None:
            return
        train = names_of(source.train, root)
        test = names_of(source.test, root) if source.test else []
        beside = {
            name for note in source.notes if note.startswith("left out: ") for name in note.split(", in ")[0][10:].split(", ")
        }
        unused = any("val/" in note and "is not used" in note for note in source.notes)
        lost = there - {*train, *test}
        assert len(train) + len(test) == len({*train, *test}) == len(there) - len(lost)
        assert all(name.rpartition("/")[2] in beside or (unused and "val" in name.split("/")) for name in lost)
        for name in train:
            folders = [part for part in name.split("/")[:-1] if part in ("train", "Test", "val")]
            assert folders[:1] in ([], ["train"])
        for name in test:
            assert next(part for part in name.split("/") if part in ("train", "Test", "val")) in ("Test", "val")
        for split, names in ((source.train, train), (source.test, test)):
            if names and split.labels is not None:
                for name, label in zip(names, labels_of(split), strict=True):
                    assert label in name.split("/")[:-1]


@FEW
@given(
    st.lists(
        st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b"..")),
        min_size=1,
        max_size=5,
    )
)
def test_folders_of_any_bytes_open_or_are_refused(names):
    with tempfile.TemporaryDirectory() as place:
        root = grow(Path(place), *(b"train/" + name + b"/0.png" for name in names))
        visible = [name for name in set(names) if not name.startswith(b".")]
        source = attempt(root)
        if source is None:
            return
        assert len(source.train) == len(visible)
        assert json.dumps(source.train.classes, ensure_ascii=False).encode()
        assert len(source.train.classes) == (len(visible) if len(visible) > 1 else 0)
        source.train.image(0, None)


def test_words_of_names():
    assert splits_in("cifar10_train-00000-of-00002") == {"train"}
    assert splits_in("validation_of_training") == {"val", "train"}
    assert not any(map(splits_in, ("trains", "contest", "latest", "value", "restrain", "device")))
    assert besides_splits("cifar10_train-00000-of-00002") == besides_splits("cifar10Test") == "cifar10"
    assert besides_splits("train-00000") == besides_splits("partial-train") == ""


def test_a_listing_is_sorted_out_as_a_folder_is(tmp_path):
    names = ["_a.JPG", ".b/c.png", ".b/d.png", "e/.f.png", "e/g.png", "h.parquet", "i.txt"]
    listed, found = sort_out(names), scan(grow(tmp_path, *names))
    assert (listed.images, listed.tables, listed.skipped) == (found.images, found.tables, found.skipped)
    assert found.images == ["_a.JPG", "e/g.png"]


# ---------------------------------------------------------------- images beside Parquet


def table(path: Path, **columns) -> None:
    pq.write_table(pa.table(columns), path)


def test_parquet_without_images_does_not_hide_the_images(tmp_path):
    table(grow(tmp_path, *classes("train", "test")) / "metadata.parquet", file_name=["a.png"], text=["x"])
    source = opened(tmp_path)
    assert (len(source.train), len(source.test)) == (4, 4)
    assert source.notes == ["not used: metadata.parquet, without images in a column 'image'"]
    assert "metadata.parquet has no column 'img'" in refusal(tmp_path, image_column="img")


def test_images_and_parquet_with_images_are_refused(tmp_path):
    table(grow(tmp_path, "a.png") / "train.parquet", image=[PNG])
    assert "holds both images (a.png) and Parquet with images (train.parquet)" in refusal(tmp_path)


# ---------------------------------------------------------------- notes and fingerprint


def test_notes_are_told_once_by_whoever_starts(tmp_path, capsys):
    grow(tmp_path, *classes("train"), "notes.txt")
    config = DataConfig(source=str(tmp_path))
    open_source(config)
    announced(config, quiet=True)
    assert capsys.readouterr() == ("", "")
    announced(config)
    assert capsys.readouterr() == ("", "contray: data.source: skipped: 1 .txt\n")


def test_the_fingerprint_sees_replaced_content_of_equal_size_and_no_times(tmp_path):
    def seen() -> str:
        return fingerprint(opened(tmp_path), DataConfig())["data"]

    grow(tmp_path, "a.png", "b.png")
    before = seen()
    os.utime(tmp_path / "a.png", (1, 1))
    assert seen() == before
    (tmp_path / "b.png").write_bytes(PNG[:-1] + b"x")
    assert seen() != before


@pytest.mark.parametrize("sizes", [[40] * 30, [4000], [900, 900, 10]])
def test_of_much_data_sizes_and_drawn_pieces_are_seen(tmp_path, monkeypatch, sizes):
    monkeypatch.setattr(content, "PIECES", 12)
    monkeypatch.setattr(content, "PIECE", 16)
    files = [tmp_path / str(i) for i in range(len(sizes))]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(bytes(size))
    assert sum(sizes) > content.PIECES * content.PIECE
    whole = content.content_of(files)
    assert content.content_of(files) == whole
    for file in files:  # of every file the size counts
        file.write_bytes(file.read_bytes() + b"x")
        assert content.content_of(files) != whole
        file.write_bytes(file.read_bytes()[:-1])
    changed = 0
    for file in files:
        data = file.read_bytes()
        file.write_bytes(b"x" + data[1:])
        changed += content.content_of(files) != whole
        file.write_bytes(data)
    assert changed == min(len(files), content.PIECES // 3)  # a whole file, or the first bytes of a drawn one


def test_a_split_in_memory_is_seen_whole():
    from contray.data.splits import ArraySplit

    images = np.zeros((3000, 2, 2, 3), np.uint8)
    before = ArraySplit("x", images, np.zeros(3000, np.int64), ["a"]).content()
    images[2999, 1, 1, 2] = 1
    assert ArraySplit("x", images, np.zeros(3000, np.int64), ["a"]).content() != before


def test_data_errors_are_of_one_line():
    assert str(DataError("a\nb\udce9")) == r"a\nb\xe9"
