"""Folders, Parquet and named sets; every bad source is refused in one line before anything is decoded."""

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import contray.data.splits as splits
from contray.config.sections import DataConfig
from contray.data import BrokenImage, fingerprint, open_source
from contray.errors import ConfigError, DataError


def picture(value, height=6, width=8):
    return np.full((height, width, 3), value, np.uint8)


def png(value, **size):
    return cv2.imencode(".png", picture(value, **size))[1].tobytes()


def write(path: Path, data: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def opened(source, **fields):
    return open_source(DataConfig(source=str(source), **fields))


def labelled_folder(root: Path, test="test"):
    for part, classes in (("train", "cat dog"), (test, "dog cat")):
        for number, name in enumerate(classes.split()):
            for i in range(2):
                write(root / part / name / f"{i}.png", png(100 * number + i))
    return root


def parquet(path: Path, values, image="image", kind="struct", label="label", labels=None, metadata=None):
    data = [png(value) if value is not None else b"junk" for value in values]
    columns = {image: [{"bytes": item, "path": None} for item in data] if kind == "struct" else data}
    if labels is not None:
        columns[label] = labels
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize("test", ["test", "val"])
def test_folder_with_classes(tmp_path, test):
    source = opened(labelled_folder(tmp_path, test))
    assert source.train.classes == source.test.classes == ["cat", "dog"]
    assert source.train.labels.tolist() == [0, 0, 1, 1]
    assert source.train.image(3, None).tolist() == picture(101).tolist()
    assert source.test.image(0, None).tolist() == picture(100).tolist()  # cat stands second there, its class stays 0
    assert source.test.labels.tolist() == [0, 0, 1, 1]
    assert source.train.describe(3) == str(tmp_path / "train" / "dog" / "1.png")


def test_folder_without_classes(tmp_path):
    for place in ("a.png", "deep/er/b.JPG", "deep/c.jpeg", "deep/._c.jpeg", "notes.txt"):
        write(tmp_path / place, png(7))
    source = opened(tmp_path)
    assert len(source.train) == 3
    assert source.train.labels is None
    assert source.test is None


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_sizes_grey_alpha_and_16_bit_all_become_rgb(tmp_path, memory_gb):
    images = {
        "a.png": picture(5),
        "b.png": np.full((4, 4), 9, np.uint8),
        "c.png": np.full((3, 9, 4), 200, np.uint8),
        "d.png": np.full((5, 5, 3), 0x8000, np.uint16),
        "e.png": np.dstack([np.full((4, 4), value, np.uint8) for value in (30, 20, 10)]),  # OpenCV writes BGR
    }
    for name, image in images.items():
        cv2.imwrite(str(tmp_path / name), image)
    write(tmp_path / "f.png", b"broken")
    split = opened(tmp_path, memory_gb=memory_gb).train
    for _ in range(2):
        found = [split.image(i, None) for i in range(5)]
        assert [image.shape for image in found] == [(6, 8, 3), (4, 4, 3), (3, 9, 3), (5, 5, 3), (4, 4, 3)]
        assert all(image.dtype == np.uint8 for image in found)
        assert found[1][0, 0].tolist() == [9, 9, 9]
        assert found[4][0, 0].tolist() == [10, 20, 30]
        with pytest.raises(BrokenImage, match=r"f\.png: not decodable"):
            split.image(5, None)
        split.prepare()


def test_broken_and_vanished_files_are_named(tmp_path):
    for name, data in (("a.png", png(1)), ("b.png", b""), ("c.jpg", png(3)[:40]), ("d.png", png(4))):
        write(tmp_path / name, data)
    split = opened(tmp_path, memory_gb=0.0).train
    (tmp_path / "d.png").unlink()
    for i, reason in ((1, r"b\.png: no bytes"), (2, r"c\.jpg: not decodable"), (3, r"d\.png: the file is gone")):
        with pytest.raises(BrokenImage, match=reason):
            split.image(i, None)
    assert split.image(0, None).tolist() == picture(1).tolist()


def test_a_failing_read_is_retried_and_then_fails(tmp_path, monkeypatch):
    write(tmp_path / "a.png", png(1))
    split = opened(tmp_path).train
    pauses, left = [], [2]
    read = split.encoded.read

    def flaky(i):
        if left[0] > 0:
            left[0] -= 1
            raise OSError(5, "Input/output error")
        return read(i)

    monkeypatch.setattr(splits.time, "sleep", pauses.append)
    split.encoded.read = flaky
    assert split.image(0, None).tolist() == picture(1).tolist()
    assert len(pauses) == 2
    left[0] = 100
    with pytest.raises(OSError, match="Input/output"):
        split.image(0, None)


@pytest.mark.parametrize("kind", ["struct", "binary"])
def test_parquet_folder(tmp_path, kind):
    metadata = {"classes": "cat,dog,owl"}
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [1, 2], kind=kind, labels=[2, 0], metadata=metadata)
    parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [3, None], kind=kind, labels=[1, 1], metadata=metadata)
    parquet(tmp_path / "data" / "validation-00000.parquet", [9], kind=kind, labels=[1], metadata=metadata)
    parquet(tmp_path / "data" / "test-00000.parquet", [5], kind=kind, labels=[1], metadata=metadata)
    source = opened(tmp_path)
    assert source.train.classes == ["cat", "dog", "owl"]
    assert source.train.labels.tolist() == [2, 0, 1, 1]
    assert source.test.image(0, None).tolist() == picture(5).tolist()
    for _ in range(2):
        assert source.train.image(2, None).tolist() == picture(3).tolist()
        with pytest.raises(BrokenImage, match=r"train-00001-of-00002\.parquet row 1: not decodable"):
            source.train.image(3, None)
        source.train.prepare()
    assert set(source.train.broken) == {3}


def test_parquet_labels(tmp_path):
    names = {"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}
    hugging = parquet(tmp_path / "hf.parquet", [1, 2], labels=[1, 0], metadata={"huggingface": json.dumps(names)})
    assert opened(hugging).train.classes == ["no", "yes"]
    words = parquet(tmp_path / "words.parquet", [1, 2, 3], labels=["owl", "cat", "owl"])
    assert (opened(words).train.classes, opened(words).train.labels.tolist()) == (["cat", "owl"], [1, 0, 1])
    sparse = parquet(tmp_path / "sparse.parquet", [1, 2], labels=[70, 3])
    assert (opened(sparse).train.classes, opened(sparse).train.labels.tolist()) == (["3", "70"], [1, 0])
    bare = parquet(tmp_path / "bare.parquet", [1, 2])
    assert opened(bare).train.labels is None
    assert opened(bare).test is None
    assert opened(words, label_column="").train.labels is None


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_decoding_once_changes_no_pixel(tmp_path, memory_gb):
    path = parquet(tmp_path / "train.parquet", range(40))
    split, lazy = opened(path, memory_gb=memory_gb).train, opened(path, memory_gb=0.0).train
    split.prepare()
    assert (split._cache is None) == (memory_gb == 0)
    assert all(np.array_equal(split.image(i, None), lazy.image(i, None)) for i in range(40))


def test_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    config = DataConfig()
    first, copy = (fingerprint(opened(labelled_folder(tmp_path / name)), config) for name in ("a", "b"))
    assert first == copy
    assert {"numpy", "albumentations", "opencv", "pillow", "torch", "torchvision", "pipeline", "data"} == first.keys()
    write(tmp_path / "b" / "train" / "dog" / "0.png", png(3, height=50, width=70))
    assert fingerprint(opened(tmp_path / "b"), config)["data"] != first["data"]
    one, two = (fingerprint(opened(parquet(tmp_path / f"{n}.parquet", range(n))), config)["data"] for n in (3, 4))
    assert one != two
    assert fingerprint(opened("digits"), config) != fingerprint(opened("digits", renderings=2), config)


def test_bad_sources_are_refused_in_one_line(tmp_path):
    write(tmp_path / "empty" / "notes.txt", b"")
    write(tmp_path / "bad.parquet", b"no parquet")
    labelled_folder(tmp_path / "odd")
    write(tmp_path / "odd" / "test" / "owl" / "0.png", png(1))
    plain = parquet(tmp_path / "plain.parquet", [1], labels=[0])
    none = parquet(tmp_path / "none.parquet", [], labels=[])
    nulls = parquet(tmp_path / "nulls.parquet", [1, 2], labels=[0, None])
    parquet(tmp_path / "set" / "train.parquet", [1], labels=["cat"])
    parquet(tmp_path / "set" / "test.parquet", [1], labels=["owl"])
    cases = [
        (dict(source="cifar1"), ConfigError, r"data.source: 'cifar1' is neither a built-in set nor .*did you mean cifar10"),
        (dict(source="/no/such/folder"), ConfigError, r"data.source: /no/such/folder does not exist"),
        (dict(source="no.parquet"), ConfigError, r"data.source: no.parquet does not exist"),
        (dict(source=tmp_path / "empty"), DataError, r"data.source: no image under .*empty"),
        (dict(source=tmp_path / "odd"), DataError, r"data.source: .*test has 'owl', which is no class of train \(cat, dog\)"),
        (dict(source=tmp_path / "bad.parquet"), DataError, r"data.source: .*bad.parquet is no readable Parquet file"),
        (dict(source=plain, image_column="img"), ConfigError, r"data.image_column: .* has no column 'img'; it has image, label"),
        (dict(source=plain, image_column="label"), ConfigError, r"data.image_column: 'label' of .* is int64, not encoded images"),
        (
            dict(source=plain, label_column="class"),
            ConfigError,
            r"data.label_column: .* has no column 'class'; it has image, label",
        ),
        (
            dict(source=plain, label_column="image"),
            ConfigError,
            r"data.label_column: 'image' of .* labels are integers or strings",
        ),
        (dict(source=none), DataError, r"data.source: .*none.parquet has no rows"),
        (dict(source=nulls), ConfigError, r"data.label_column: 'label' of .* has 1 rows without a label"),
        (
            dict(source=tmp_path / "set"),
            ConfigError,
            r"data.label_column: 'label' of .*test.parquet holds 'owl', which is no class",
        ),
        (dict(source="cifar10", root=str(tmp_path)), DataError, r"data.source: cifar10 is not under .* --data.download true"),
        (dict(source="stl10", root=str(tmp_path)), DataError, r"data.source: stl10 is not under .* --data.download true"),
    ]
    for fields, kind, message in cases:
        with pytest.raises(kind, match="^" + message) as caught:
            open_source(DataConfig(**{key: str(value) for key, value in fields.items()}))
        assert "\n" not in str(caught.value)


def test_stl10_and_its_unlabelled_images_are_mapped_from_their_files(tmp_path, monkeypatch):
    from torchvision.datasets import STL10

    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("".join(f"{name}\n" for name in "abcdefghij"))
    images = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8)
    for part in ("train", "test", "unlabeled"):
        images.transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")  # columns before rows, as the authors have it
        np.array([1, 10, 3, 2], np.uint8).tofile(folder / f"{part}_y.bin")
    source = open_source(DataConfig(source="stl10", root=str(tmp_path)))
    assert np.array_equal(source.train.image(2, None), images[2])
    assert np.array_equal(source.train.image(2, None), np.asarray(STL10(tmp_path, "train")[2][0]))
    assert (source.train.labels.tolist(), source.test.classes) == ([0, 9, 2, 1], list("abcdefghij"))
    alone = open_source(DataConfig(source="stl10_unlabelled", root=str(tmp_path)))
    assert (len(alone.train), alone.train.labels, alone.test) == (4, None, None)
    assert np.array_equal(alone.train.image(3, None), images[3])


def test_coco_s_folders_are_images_without_labels(tmp_path):
    for name in ("train2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg", "annotations/instances_train2017.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1) if name.endswith("jpg") else b"{}")
    source = open_source(DataConfig(source=str(tmp_path)))
    assert (len(source.train), len(source.test), source.train.labels) == (2, 1, None)
    assert source.notes[0] == "train2017/ was taken for training, val2017/ for testing"


def test_torchvision_set(tmp_path, monkeypatch):
    class Set:
        def __init__(self, root, train, download):
            self.data = np.full((3 if train else 2, 32, 32, 3), 4, np.uint8)
            self.targets, self.classes = list(range(len(self.data))), ["a", "b", "c"]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Set)
    source = opened("cifar10")
    assert (len(source.train), len(source.test)) == (3, 2)
    assert source.train.labels.tolist() == [0, 1, 2]
    assert source.test.image(1, None).shape == (32, 32, 3)


class Cifar:
    """As torchvision gives it."""

    classes = ["cat", "dog"]
    data, targets = np.zeros((2, 8, 8, 3), np.uint8), [0, 1]

    def __init__(self, *_, **__):
        pass


@pytest.fixture(params=["folder", "cifar10"])
def without_columns(request, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Cifar)
    return request.param if request.param == "cifar10" else labelled_folder(tmp_path)


def test_without_a_label_column_no_set_has_labels(without_columns):
    source = opened(without_columns)
    assert source.train.labels is not None
    assert source.train.classes == ["cat", "dog"]
    source = opened(without_columns, label_column="")
    assert source.test is not None
    for split in (source.train, source.test):
        assert split.labels is None
        assert split.classes == []


@pytest.mark.parametrize("key", ["label_column", "image_column"])
def test_a_column_of_what_has_none_is_refused(without_columns, key):
    """It was ignored without a word: the numbers were taken for those of the named labels."""
    with pytest.raises(ConfigError, match=rf"data\.{key}: got 'other', but .* no columns; "):
        opened(without_columns, **{key: "other"})


def test_digits_have_no_column_of_images():
    with pytest.raises(ConfigError, match=r"data\.image_column: got 'other', but digits have no columns; leave it at image"):
        opened("digits", image_column="other")
