"""Parquet that people have: splits by the files' names, labels joined by name, shards of several layouts, rows that name files; or a refusal in one line."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contray.config.sections import DataConfig
from contray.data import BrokenImage, fingerprint, open_source
from contray.data.parquet import cell_bytes
from contray.errors import UserError
from contray.evaluation.common.samples import check_labels

FEW = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def png(value: int) -> bytes:
    return cv2.imencode(".png", np.full((2, 2, 3), value, np.uint8))[1].tobytes()


PNGS = [png(value) for value in range(40)]
CAT, DOG, OWL = "cat", "dog", "owl"


def features(*names: str, column: str = "label") -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": {column: {"names": list(names), "_type": "ClassLabel"}}}})}


def images(values, layout: str = "struct") -> pa.Array:
    data = [PNGS[value] for value in values]
    if layout == "struct":
        return pa.array(
            [{"bytes": each, "path": None} for each in data], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        )
    if layout == "large":
        return pa.array(
            [{"path": "x", "bytes": each} for each in data], pa.struct([("path", pa.string()), ("bytes", pa.large_binary())])
        )
    if layout == "dictionary":
        return pa.array(data, pa.binary()).dictionary_encode()
    return pa.array(data, {"binary": pa.binary(), "large_binary": pa.large_binary(), "view": pa.binary_view()}[layout])


def write(path: Path, values, labels=None, metadata=None, layout="struct", **more) -> Path:
    columns = {"image": images(values, layout), **({} if labels is None else {"label": labels}), **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def opened(place: Path, **config):
    return open_source(DataConfig(source=str(place), **config))


def attempt(place: Path, **config):
    """The source, or None where it is refused in one line."""
    try:
        return opened(place, **config)
    except UserError as error:
        message = str(error)
    message.encode()
    assert "\n" not in message
    return None


def refusal(place: Path, **config) -> str:
    with pytest.raises(UserError) as caught:
        opened(place, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(split) -> list[tuple[int, str | None]]:
    """(value of the picture, name of its class)."""
    if split is None:
        return []
    labels = [None] * len(split) if split.labels is None else [split.classes[label] for label in split.labels]
    return [(int(split.image(i, None).max()), label) for i, label in enumerate(labels)]


# ---------------------------------------------------------------- labels


def test_labels_are_joined_by_name_and_never_by_number(tmp_path):
    write(tmp_path / "train.parquet", [0, 1, 2], [0, 1, 0], features(CAT, DOG))
    write(tmp_path / "test.parquet", [3, 4], [0, 1], features(DOG, CAT))
    source = opened(tmp_path)
    assert rows(source.train) == [(0, CAT), (1, DOG), (2, CAT)]
    assert rows(source.test) == [(3, DOG), (4, CAT)]
    assert source.train.classes == source.test.classes == [CAT, DOG]
    assert source.test.labels.tolist() == [1, 0]
    assert check_labels(source) is source.test


def test_strings_dictionaries_and_named_numbers_are_one(tmp_path):
    write(tmp_path / "train-0.parquet", [0, 1], pa.array([1, 0], pa.int32()), features(DOG, CAT))
    write(tmp_path / "train-1.parquet", [2, 3], pa.array([OWL, CAT]).dictionary_encode())
    write(tmp_path / "train-2.parquet", [4], pa.array([0], pa.int8()), {"classes": "cat,dog"})
    write(tmp_path / "test.parquet", [5, 6], pa.array([OWL, DOG], pa.large_string()))
    source = opened(tmp_path)
    assert source.train.classes == [DOG, CAT, OWL]
    assert rows(source.train) == [(0, CAT), (1, DOG), (2, OWL), (3, CAT), (4, CAT)]
    assert rows(source.test) == [(5, OWL), (6, DOG)]


def test_numbers_without_names_join_by_value(tmp_path):
    write(tmp_path / "train.parquet", [0, 1], [70, -1])
    write(tmp_path / "test.parquet", [2, 3], pa.array([-1, -1], pa.int16()))
    source = opened(tmp_path)
    assert source.train.classes == ["-1", "70"]
    assert rows(source.test) == [(2, "-1"), (3, "-1")]
    assert any("holds -1, which is taken for a class" in note for note in source.notes)


@pytest.mark.parametrize("hidden", ["-1", "-1 named", "null", "null strings", "no column"])
def test_hidden_test_labels_leave_those_of_training(tmp_path, hidden):
    labels = {"null": pa.nulls(3, pa.int64()), "null strings": pa.nulls(3, pa.string()), "no column": None}.get(hidden, [-1] * 3)
    names = features(CAT, DOG) if hidden in ("-1 named", "null", "null strings") else None
    write(tmp_path / "train.parquet", [0, 1], [1, 0], names)
    write(tmp_path / "test.parquet", [2, 3, 4], labels, names)
    source = opened(tmp_path)
    assert source.train.labels.tolist() == [1, 0]
    assert source.test.labels is None
    assert len(source.test) == 3
    assert any("the test images have" in note and "nothing is tested on them" in note for note in source.notes)
    assert check_labels(source) is None


LABELS: dict[str, tuple[Any, ...]] = {  # (train labels, metadata), (test labels, metadata), what is said
    "some training rows": (([0, None, None], None), ([0] * 3, None), "train.parquet has 2 rows without a label (of 3)"),
    "all training rows": ((pa.nulls(3, pa.int64()), None), ([0] * 3, None), "3 rows without a label", "--data.label_column ''"),
    "training rows of -1": (([0, 1, -1], features(CAT, DOG)), ([0] * 3, features(CAT, DOG)), "has 1 rows without a label"),
    "some test rows": (([0, 1, 1], features(CAT, DOG)), ([0, -1, 1], features(CAT, DOG)), "test.parquet has 1 rows without a label"),
    "beyond the names": (([0, 1, 7], features(CAT, DOG)), ([0] * 3, features(CAT, DOG)), "train.parquet holds 7, and the file names 2 classes (0 to 1)"),
    "below the names": (([0, 1, 1], features(CAT, DOG)), ([0, -2, 0], features(CAT, DOG)), "test.parquet holds -2, and the file names 2 classes"),
    "a class of the test": (([0, 1, 1], features(CAT, DOG)), ([0, 1, 2], features(CAT, DOG, OWL)), "holds 'owl', which is no class of the training set (cat, dog)"),
    "a number of the test": (([0, 1, 1], None), ([0, 1, 2], None), "holds 2, which is no class of the training set (0, 1)"),
    "names in training alone": (([0, 1, 1], features(CAT, DOG)), ([0, 1, 1], None), "train.parquet holds numbers of named classes", "test.parquet numbers without names"),
    "names in the test alone": (([0, 1, 1], None), ([0, 1, 1], features(CAT, DOG)), "train.parquet numbers without names"),
    "words and numbers": (([0, 1, 1], None), ([CAT] * 3, None), "holds 'cat', which is no class of the training set (0, 1)"),
    "a name for two numbers": (([0, 1, 1], features(CAT, CAT)), ([0] * 3, features(CAT, DOG)), "name the class 'cat' twice"),
    "fractions": (([0.0, 1.0, 1.0], None), ([0.0] * 3, None), "'label' of", "is double; labels are integers or strings"),
}  # fmt: skip


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_cannot_be_joined_are_refused(tmp_path, case):
    (train, metadata), (test, other), *said = LABELS[case]
    write(tmp_path / "train.parquet", [0, 1, 2], train, metadata)
    write(tmp_path / "test.parquet", [3, 4, 5], test, other)
    message = refusal(tmp_path)
    assert message.startswith("data.label_column: ")
    for part in said:
        assert part in message


def test_shards_of_one_split_that_do_not_agree_are_refused_by_name(tmp_path):
    write(tmp_path / "a/train-0.parquet", [0], [0], features(CAT, DOG))
    write(tmp_path / "a/train-1.parquet", [1], [0])
    assert "holds numbers of named classes in" in refusal(tmp_path / "a")
    write(tmp_path / "b/train-0.parquet", [0], [0])
    write(tmp_path / "b/train-1.parquet", [1])
    message = refusal(tmp_path / "b")
    assert "train-0.parquet has a column 'label', and" in message
    assert "train-1.parquet has none" in message


@pytest.mark.parametrize(
    "metadata",
    ['{"info": null}', '{"info": {"features": null}}', '{"info": {"features": {"label": null}}}', '{"info": {"features": {"label": {"names": 3}}}}',
     '{"info": []}', "[]", "7", "null", "{oops", "\xff"],
)  # fmt: skip
def test_metadata_that_name_no_classes_are_passed_over(tmp_path, metadata):
    source = opened(write(tmp_path / "x.parquet", [0, 1], [5, 3], {"huggingface": metadata.encode("latin-1")}))
    assert rows(source.train) == [(0, "5"), (1, "3")]


def test_an_absent_label_column_is_said(tmp_path):
    source = opened(write(tmp_path / "x.parquet", [0], fine_label=[3]))
    assert source.train.labels is None
    assert source.notes == [
        "no labels: no column 'label' in x.parquet, which has image, fine_label (choose with --data.label_column)"
    ]


# ---------------------------------------------------------------- splits

SPLITS = [
    ("cifar_train.parquet", "cifar_test.parquet"), ("train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"), ("Train/0.parquet", "Test/0.parquet"),
    ("data/train-0.PARQUET", "data/test-0.PARQUET"),
    ("default/train/0000.parquet", "default/test/0000.parquet"), ("default/partial-train/0.parquet", "default/dev/0.parquet"),
    ("a/b/training.parquet", "a/b/testing.parquet"), ("x-trn.parquet", "x-tst.parquet"), ("mnistTrain/part-0.parquet", "mnistTest/part-0.parquet"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "test"), SPLITS)
def test_splits_by_any_usual_name(tmp_path, train, test):
    write(tmp_path / train, [0, 1], [CAT, DOG])
    write(tmp_path / test, [2], [DOG])
    source = opened(tmp_path)
    assert rows(source.train) == [(0, CAT), (1, DOG)]
    assert rows(source.test) == [(2, DOG)]


def test_validation_beside_a_test_set_is_said_to_be_unused(tmp_path):
    for value, name in enumerate(("train", "valid", "test")):
        write(tmp_path / f"{name}.parquet", [value], [CAT])
    source = opened(tmp_path)
    assert (rows(source.train), rows(source.test)) == ([(0, CAT)], [(2, CAT)])
    assert any(note.startswith("not used: valid.parquet; test.parquet tests") for note in source.notes)


REFUSED = {
    "an unknown file beside": (["train.parquet", "test.parquet", "extra.parquet"], "train.parquet was taken for train", "extra.parquet is no split"),
    "two configurations": (["a/train.parquet", "a/test.parquet", "b/train.parquet", "b/test.parquet"], "several sets side by side", "a/test.parquet, b/test.parquet"),
    "two configurations without splits": (["a/0.parquet", "b/0.parquet"], "several sets side by side"),
    "two sets in file names": (["cifar10_train.parquet", "cifar10_test.parquet", "cifar100_train.parquet", "cifar100_test.parquet"], "several sets side by side"),
    "one deeper than the other": (["train.parquet", "more/train.parquet"], "several sets side by side"),
    "a name for two": (["train_test.parquet"], "speaks of test and train at once"),
    "a file against its folder": (["train/test-0.parquet", "train/0.parquet"], "speaks of test and train at once"),
    "no training set": (["test.parquet", "val.parquet"], "has no train*.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_placed_is_refused(tmp_path, case):
    names, *said = REFUSED[case]
    for value, name in enumerate(names):
        write(tmp_path / name, [value], [CAT])
    message = refusal(tmp_path)
    assert message.startswith("data.source: ")
    for part in said:
        assert part in message


def test_files_whose_names_say_nothing_all_train_and_that_is_said(tmp_path):
    for value in range(3):
        write(tmp_path / f"part-{value}.parquet", [value], [CAT])
    source = opened(tmp_path)
    assert rows(source.train) == [(0, CAT), (1, CAT), (2, CAT)]
    assert source.notes == ["no name of the 3 Parquet files speaks of a split: all of them train"]


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_every_file_is_read_by_its_own_schema(tmp_path, memory_gb):
    layouts = ("struct", "binary", "large", "large_binary", "dictionary", "view")
    for value, layout in enumerate(layouts):
        kind = (pa.int64(), pa.int32(), pa.uint8())[value % 3]
        columns = {"label": pa.array([value, 9], kind), "image": images([value, value + 10], layout)}
        pq.write_table(pa.table(columns if value % 2 else dict(reversed(columns.items()))), tmp_path / f"train-{value}.parquet")
    write(tmp_path / "train-6.parquet", [], [])  # a shard without rows
    pq.write_table(pa.table({"image": pa.nulls(0), "label": pa.nulls(0)}), tmp_path / "train-7.parquet")
    split = opened(tmp_path, memory_gb=memory_gb, test_share=0.0).train
    expected = [pair for value in range(6) for pair in ((value, str(value)), (value + 10, "9"))]
    for _ in range(2):
        assert rows(split) == expected
        split.prepare()


def test_further_columns_are_offered_where_all_files_have_them(tmp_path):
    write(tmp_path / "train-0.parquet", [0], [CAT], caption=["a"], depth=images([5], "binary"), sound=[[1.0]])
    write(
        tmp_path / "train-1.parquet",
        [1],
        [CAT],
        depth=images([6], "struct"),
        sound=["text"],
        caption=pa.array(["b"]).dictionary_encode(),
    )
    split = opened(tmp_path).train
    assert split.columns == {"image": "image", "label": "text", "caption": "text", "depth": "image"}
    assert [split.value(i, "caption", None) for i in range(2)] == ["a", "b"]
    assert [split.value(i, "depth", None).max() for i in range(2)] == [5, 6]


def naming(path: Path, paths: list[str | None], data: list[bytes | None] | None = None, **more) -> Path:
    """A table whose images are paths, as Hugging Face writes images that it was not asked to embed."""
    cells = [
        {"path": name} if data is None else {"bytes": item, "path": name} for name, item in zip(paths, data or paths, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": cells, **more}), path)
    return path


@pytest.mark.parametrize("data", [None, [None, None, None]])
def test_rows_that_name_files_are_read_from_beside_the_table(tmp_path, data, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for value in range(3):
        (tmp_path / "pictures" / f"{value}.png").write_bytes(PNGS[value])
    table = naming(
        tmp_path / "x.parquet",
        ["pictures/2.png", str(tmp_path / "pictures/0.png"), "./pictures/1.png"],
        data,
        label=[CAT, DOG, CAT],
    )
    expected = [(2, CAT), (0, DOG), (1, CAT)]
    assert rows(opened(table).train) == expected
    assert rows(opened(tmp_path).train) == expected  # the pictures are the table's, no second data set
    monkeypatch.chdir(tmp_path)
    assert rows(opened(Path("x.parquet")).train) == expected
    before = fingerprint(opened(table), DataConfig())
    (tmp_path / "pictures" / "1.png").write_bytes(PNGS[1][:-1] + b"x")
    assert fingerprint(opened(table), DataConfig()) != before
    (tmp_path / "pictures" / "3.png").write_bytes(PNGS[3])  # named by no row
    assert "holds both images" in refusal(tmp_path)


def test_rows_that_name_no_file_below_the_table_are_broken_and_named(tmp_path):
    (tmp_path / "outside.png").write_bytes(PNGS[0])
    (tmp_path / "set" / "folder").mkdir(parents=True)
    os.mkfifo(tmp_path / "set" / "pipe.png")
    out, gone = "leads out of", "is not there"
    named = {
        "../outside.png": out, str(tmp_path / "outside.png"): out, "set/../../outside.png": out, "gone.png": gone, "folder": gone, "pipe.png": gone,
        "a\0b": gone, "n" * 300: gone, "": "no bytes", None: "no bytes",
    }  # fmt: skip
    split = opened(naming(tmp_path / "set" / "x.parquet", list(named), [None] * len(named))).train
    assert split.content()
    for i, reason in enumerate(named.values()):
        with pytest.raises(BrokenImage, match=reason):
            split.image(i, None)


def test_cells_in_python_are_cells_too(tmp_path):
    (tmp_path / "a.png").write_bytes(b"file")
    assert cell_bytes(None, tmp_path) is None
    assert cell_bytes(b"x", tmp_path) == b"x"
    assert cell_bytes({"bytes": b"x", "path": "a.png"}, tmp_path) == b"x"
    assert cell_bytes({"bytes": None, "path": "a.png"}, tmp_path) == b"file"
    assert cell_bytes({"bytes": None, "path": None}, tmp_path) is None
    assert cell_bytes({"path": "b/a.png"}, Path("/bucket"), lambda place: place.encode()) == b"/bucket/b/a.png"


def test_tables_that_are_none_are_refused_by_name(tmp_path):
    write(tmp_path / "a/train-0.parquet", [0], [CAT])
    (tmp_path / "a/train-1.parquet").write_bytes(b"")
    assert "train-1.parquet is no readable Parquet file" in refusal(tmp_path / "a")
    whole = write(tmp_path / "b/x.parquet", [0], [CAT]).read_bytes()
    (tmp_path / "b/x.parquet").write_bytes(whole[:-6] + b"xxPAR1")
    assert "x.parquet is no readable Parquet file" in refusal(tmp_path / "b")
    pq.write_table(pa.table([images([0]), images([1])], names=["image", "image"]), tmp_path / "twice.parquet")
    assert "several columns 'image'" in refusal(tmp_path / "twice.parquet")
    write(tmp_path / "c/train-0.parquet", [0], [CAT])
    pq.write_table(pa.table({"img": images([0]), "label": [CAT]}), tmp_path / "c/train-1.parquet")
    assert "train-1.parquet has no column 'image'; it has img, label" in refusal(tmp_path / "c")


def test_tables_in_folders_of_any_bytes(tmp_path):
    place = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xe9")))
    write(tmp_path / "x.parquet", [3], [CAT])
    place.mkdir()
    (tmp_path / "x.parquet").rename(place / "train.parquet")
    split = opened(tmp_path).train
    assert rows(split) == [(3, CAT)]
    assert split.describe(0).endswith(r"\xe9/train.parquet row 0")


# ---------------------------------------------------------------- against a naive reader

SHARDS = st.tuples(
    st.sampled_from(["train-0", "train-1", "test-0", "cifar_test", "data/train", "valid", "other"]),
    st.sampled_from(["struct", "binary", "large", "large_binary", "dictionary", "view"]),
    st.sampled_from(["none", "words", "dictionary", "named", "named the other way", "bare"]),
    st.lists(st.sampled_from([CAT, DOG, OWL]), max_size=3),
)
ORDERS = {"named": [CAT, DOG, OWL], "named the other way": [OWL, CAT, DOG], "bare": [CAT, DOG, OWL]}


def shard(path: Path, start: int, layout: str, kind: str, labels: list[str]) -> list[tuple[int, str | None]]:
    """Writes a file; returns its rows as this test, which wrote it, knows them."""
    values = range(start, start + len(labels))
    if kind in ORDERS:
        numbers = [ORDERS[kind].index(label) for label in labels]
        write(path, values, pa.array(numbers, pa.int64()), None if kind == "bare" else features(*ORDERS[kind]), layout)
        return [
            (value, label if kind != "bare" else str(number))
            for value, label, number in zip(values, labels, numbers, strict=True)
        ]
    column = pa.array(labels, pa.string())
    write(path, values, {"none": None, "words": column, "dictionary": column.dictionary_encode()}[kind], None, layout)
    return [(value, label if kind != "none" else None) for value, label in zip(values, labels, strict=True)]


@FEW
@given(st.lists(SHARDS, min_size=1, max_size=4, unique_by=lambda each: each[0]), st.booleans())
def test_random_tables_open_with_what_was_written_or_are_refused(shards, alike):
    with tempfile.TemporaryDirectory() as place:
        root, written = Path(place), {}
        for number, (name, layout, kind, labels) in enumerate(shards):
            kind = shards[0][2] if alike else kind
            written[name] = shard(root / f"{name}.parquet", 10 * number, layout, kind, labels)
        source = attempt(root)
        names = set(written)
        train, test = (
            sorted(names & {"train-0", "train-1", "data/train"}),
            sorted(names & {"test-0", "cifar_test"}) or sorted(names & {"valid"}),
        )
        expected = [row for name in train for row in written[name]], [row for name in test for row in written[name]]
        known = {label for _, label in expected[0]}
        placed = train and "other" not in names and not ("data/train" in names and len(names) > 1)
        if alike and placed and all(expected[bool(test) :]) and expected[0] and known >= {label for _, label in expected[1]}:
            assert source is not None
        if source is None:
            return
        if not train:
            expected = [row for name in sorted(names) for row in written[name]], []
        got = rows(source.train), rows(source.test)
        if shards[0][2] == "none" and alike:
            assert got == expected
        assert [value for value, _ in got[0]] == [value for value, _ in expected[0]]
        assert [value for value, _ in got[1]] == [value for value, _ in expected[1]]
        for split, found, true in zip((source.train, source.test), got, expected, strict=True):
            if split is not None and split.labels is not None:
                assert found == true


@FEW
@given(st.integers(0, 10**6), st.binary(max_size=6), st.booleans())
def test_damaged_tables_open_or_are_refused(at, data, cut):
    with tempfile.TemporaryDirectory() as place:
        path = write(Path(place) / "x.parquet", range(8), [CAT, DOG] * 4, features(CAT, DOG))
        whole = path.read_bytes()
        at %= len(whole)
        path.write_bytes(whole[:at] + (b"" if cut else data + whole[at + len(data) :]))
        source = attempt(path)
        for i in range(0 if source is None else len(source.train)):
            try:
                source.train.image(i, None)
            except (BrokenImage, UserError) as error:
                message = str(error)
                message.encode()
