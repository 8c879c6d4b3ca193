"""The index of a large folder: as if it were listed anew, at any change, damage or place."""

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contray.config.sections import DataConfig
from contray.data import EncodedSplit, Source, index, layout, open_source
from contray.data.aside import lots_of_split
from contray.data.digests import digest, lots_of
from contray.data.index import index_of
from contray.data.names import Names, Tree
from contray.errors import ConfigError, DataError, UserError
from contray.storage.folder import Storage

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=8)


def png(value: int) -> bytes:
    return cv2.imencode(".png", np.full((6, 8, 3), value % 256, np.uint8))[1].tobytes()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Classes a, b and c of four images each, in a folder that counts as large, changed long ago."""
    monkeypatch.setattr(index, "LARGE", 8)
    root = tmp_path / "photos"
    for number, name in enumerate("abc"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            (root / name / f"{i}.png").write_bytes(png(10 * number + i))
    return aged(root)


def aged(root: Path) -> Path:
    """A day ago, all at once: times that no clock of a file system is too coarse for."""
    for folder, _, _ in os.walk(root):
        when = os.stat(folder).st_mtime_ns - 86_400 * 10**9
        os.utime(folder, ns=(when, when))
    return root


def opened(root: Path | str, scratch: Path, **keys) -> Source:
    return open_source(DataConfig(source=str(root), scratch=str(scratch), **keys))


def told(source: Source) -> tuple:
    splits = [split for split in (source.train, source.test) if split is not None]
    return source.notes, [
        ([split.key(i) for i in range(len(split))], None if split.labels is None else split.labels.tolist(), split.classes)
        for split in splits
    ]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders whose lists are read, by their names."""
    found: list[str] = []
    real = os.scandir

    def scandir(place):
        if isinstance(place, str):  # shutil.rmtree gives numbers
            found.append(os.path.basename(place))
        return real(place)

    monkeypatch.setattr(layout.os, "scandir", scandir)
    return found


def test_a_folder_is_listed_once(photos: Path, tmp_path: Path, read: list[str]) -> None:
    first = opened(photos, tmp_path / "s")
    assert sorted(filter(None, read)) == ["a", "b", "c"]
    read.clear()
    again = opened(photos, tmp_path / "s")
    assert not read
    assert told(again) == told(first) == told(opened(photos, tmp_path / "other"))
    assert isinstance(again.train.labels, np.ndarray)
    assert again.train.content() == first.train.content()
    assert np.array_equal(again.train.image(0, None), first.train.image(0, None))


def test_only_folders_that_changed_are_listed_again(photos: Path, tmp_path: Path, read: list[str]) -> None:
    opened(photos, tmp_path / "s")
    (photos / "b" / "new.png").write_bytes(png(99))
    read.clear()
    after = opened(photos, tmp_path / "s", test_share=0.0)
    assert set(read) == {"b"}
    assert "b/new.png" in told(after)[1][0][0]
    assert told(after) == told(opened(photos, tmp_path / "other", test_share=0.0))


def test_a_change_in_the_moment_of_reading_is_seen(photos: Path, tmp_path: Path) -> None:
    """A file system may give a second change the time of the first: a list that is made so soon is not trusted."""
    (photos / "c" / "0.png").unlink()
    (photos / "c" / "4.png").write_bytes(png(4))
    opened(photos, tmp_path / "s")
    time = os.stat(photos / "c").st_mtime_ns
    (photos / "c" / "5.png").write_bytes(png(5))
    os.utime(photos / "c", ns=(time, time))
    assert "c/5.png" in told(opened(photos, tmp_path / "s", test_share=0.0))[1][0][0]


def test_a_change_under_a_time_that_is_set_back_is_seen(photos: Path, tmp_path: Path) -> None:
    """As a reproducible archive that is unpacked anew leaves it."""
    opened(photos, tmp_path / "s")
    time = os.stat(photos / "c").st_mtime_ns
    (photos / "c" / "0.png").rename(photos / "c" / "5.png")
    os.utime(photos / "c", ns=(time, time))
    assert "c/5.png" in told(opened(photos, tmp_path / "s", test_share=0.0))[1][0][0]


CHANGES = st.lists(st.tuples(st.sampled_from(["add", "drop", "folder", "away", "move", "table"]), st.integers(0, 9)), max_size=6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(changes=CHANGES)
def test_any_change_gives_what_a_new_list_gives(tmp_path_factory: pytest.TempPathFactory, changes: list) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "LARGE", 1)
        base = tmp_path_factory.mktemp("index")
        root = base / "r"
        for name in "ab":
            (root / name).mkdir(parents=True)
            (root / name / "0.png").write_bytes(b"0")
        index_of(aged(root), str(base / "s"))
        for kind, number in changes:
            change(root, kind, number)
        known, new = index_of(root, str(base / "s")).found, index_of(root, str(base / "other")).found
        assert list(known.images) == list(new.images)
        assert [known.images.folders[i] for i in known.images.folder_of] == [new.images.folders[i] for i in new.images.folder_of]
        assert (known.tables, known.skipped, list(known.folders)) == (new.tables, new.skipped, list(new.folders))
        shutil.rmtree(base)


def change(root: Path, kind: str, number: int) -> None:
    there = sorted(path for path in root.rglob("*.png"))
    folders = sorted(path for path in root.rglob("*") if path.is_dir())
    if kind == "add":
        (root / f"{number}.png").write_bytes(b"1")
    elif kind == "drop" and there:
        there[number % len(there)].unlink()
    elif kind == "folder":
        (root / "a" / f"{number}").mkdir(parents=True, exist_ok=True)
        (root / "a" / f"{number}" / "x.png").write_bytes(b"2")
    elif kind == "away" and folders:
        shutil.rmtree(folders[number % len(folders)])
    elif kind == "move" and folders and not (root / f"m{number}").exists():
        folders[number % len(folders)].rename(root / f"m{number}")
    elif kind == "table":
        (root / f"{number}.txt").write_bytes(b"3")


@pytest.mark.parametrize("harm", ["cut", "flip", "gone", "text", "empty"])
def test_a_damaged_index_is_made_again(photos: Path, tmp_path: Path, harm: str) -> None:
    whole = told(opened(photos, tmp_path / "s"))
    files = sorted(path for path in (tmp_path / "s").rglob("*") if path.is_file() and path.suffix != ".lock")
    assert {path.suffix for path in files} == {".json", ".npy", ".arrow"}
    for file in files:
        data = bytearray(file.read_bytes())
        if harm == "gone":
            file.unlink()
        elif harm == "flip":
            data[len(data) // 2] ^= 4
            file.write_bytes(data)
        else:
            file.write_bytes({"cut": data[: len(data) // 2], "text": b'{"files": 3}', "empty": b""}[harm])
        assert told(opened(photos, tmp_path / "s")) == whole, file
        assert all(index._load(facts.parent) for facts in (tmp_path / "s").rglob("facts.json")), "whole again"


def test_an_index_that_cannot_be_kept_is_said(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.scratch: .* cannot be written .*; name another folder"):
        opened(photos, tmp_path / "file" / "s")


def test_an_index_that_nobody_used_for_long_is_forgotten(photos: Path, tmp_path: Path) -> None:
    opened(photos, tmp_path / "s")
    (old,) = (tmp_path / "s" / "index").glob("*/facts.json")
    os.utime(old, (0, 0))
    other = aged(Path(shutil.copytree(photos, tmp_path / "other")))
    opened(other, tmp_path / "s")
    assert len(list((tmp_path / "s" / "index").glob("*/facts.json"))) == 1
    assert told(opened(photos, tmp_path / "s"))[1] == told(opened(other, tmp_path / "s"))[1]


def _keys(root: Path, scratch: Path, queue) -> None:
    index.LARGE = 8
    queue.put(told(opened(root, scratch)))


def test_processes_that_begin_together_agree(photos: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    workers = [context.Process(target=_keys, args=(photos, tmp_path / "s", queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    assert found[0] == found[1] == found[2] == told(opened(photos, tmp_path / "other"))


@given(st.lists(NAMES, unique=True, max_size=30))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_names_are_the_list_of_them(names: list[str]) -> None:
    found, ordered = Names.of(names), sorted(names)
    assert (list(found), found[1:3], len(found)) == (ordered, ordered[1:3], len(ordered))
    assert digest(found) == digest(ordered)
    ids = np.arange(len(names))[::2]
    assert (list(found.take(ids)), list(found.take(ids).take(ids[: len(ids) // 2]))) == (
        ordered[::2], [ordered[::2][i] for i in ids[: len(ids) // 2]],
    )  # fmt: skip
    tree = Tree.of(f"{name[:1]}/{name}" for name in names)
    assert list(tree) == sorted(f"{name[:1]}/{name}" for name in names)
    assert all(name.startswith(f"{tree.folders[of]}/") for name, of in zip(tree, tree.folder_of, strict=True))


def test_names_that_are_no_text_stay(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    assert list(Names.of([odd, "é.png"])) == sorted([odd, "é.png"], key=os.fsencode)


def test_the_tenth_that_tests_is_drawn_by_the_same_names(photos: Path, tmp_path: Path) -> None:
    split = opened(photos, tmp_path / "s", test_share=0.0).train
    for _ in range(2):
        assert np.array_equal(lots_of_split(split), lots_of(split.key(i) for i in range(len(split))))


# ---------------------------------------------------------------- object stores


@pytest.fixture
def store(photos: Path) -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    for path in photos.rglob("*.png"):
        memory.pipe(f"/bucket/photos/{path.relative_to(photos)}", path.read_bytes())
    memory.pipe("/bucket/photos/.hidden/0.png", b"x")
    memory.pipe("/bucket/photos/a/notes.txt", b"x")
    yield "memory://bucket/photos"
    memory.rm("/bucket", recursive=True)


def test_an_object_store_is_the_folder_that_it_holds(photos: Path, store: str, tmp_path: Path) -> None:
    local, far = opened(photos, tmp_path / "s"), opened(store, tmp_path / "s")
    assert told(far)[1] == told(local)[1]
    assert "skipped: 1 hidden folder(s), 1 .txt" in far.notes
    assert far.name == "photos"
    assert isinstance(far.train, EncodedSplit)
    far.train.prepare()
    assert all(np.array_equal(far.train.image(i, None), local.train.image(i, None)) for i in range(len(local.train)))
    assert far.train.describe(0) == "memory://bucket/photos/a/0.png"


def test_its_list_stands_for_a_while(store: str, tmp_path: Path) -> None:
    before = opened(store, tmp_path / "s", test_share=0.0)
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/photos/a/new.png", png(1))
    assert len(opened(store, tmp_path / "s", test_share=0.0).train) == len(before.train)
    (facts,) = (path for path in (tmp_path / "s" / "index").glob("*/facts.json") if "-" not in path.parent.name)
    os.utime(facts, (0, 0))
    after = opened(store, tmp_path / "s", test_share=0.0)
    assert len(after.train) == len(before.train) + 1
    assert after.train.content() != before.train.content()


def test_addresses_that_lead_nowhere_are_said(store: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.source: memory://bucket/nothing: there is nothing"):
        opened("memory://bucket/nothing", tmp_path)
    with pytest.raises(DataError, match="is a single image; give the folder"):
        opened(f"{store}/a/0.png", tmp_path)
    with pytest.raises(UserError, match=r"data\.source: got nosuch://a/b; give a path, or an address"):
        opened("nosuch://a/b", tmp_path)


def test_what_pyarrow_does_not_know_fsspec_may(store: str) -> None:
    place = Storage("memory://bucket/photos")
    assert place.folders() == [".hidden", "a", "b", "c"]
    assert (place / "a").names() == ["0.png", "1.png", "2.png", "3.png", "notes.txt"]
    assert (place / "a").read("notes.txt") == b"x"
