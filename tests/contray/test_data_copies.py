"""Copies of shards: one for all processes, within the budget, made anew where they are damaged, also of what lies on an object store."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contray.config.sections import DataConfig
from contray.data import EncodedSplit, rows
from contray.data.batches import quiet_start
from contray.data.copies import Copies, Writer
from contray.data.hugging_face import open_arrow
from contray.data.parquet import footer_of, open_parquet
from contray.data.places import Remote
from contray.data.webdataset import open_tars
from contray.errors import UserError
from contray.storage.folder import Storage

from .test_data_hugging_face import table, written
from .test_data_tar import shard


def filled(value: int, count: int = 10, size: int = 1000):
    def make(writer: Writer) -> bytes:
        for _ in range(count):
            writer.write(bytes([value]) * size)
        return b"about"

    return make


def blobs(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.blob")}


def test_the_least_recently_used_leaves_and_stays_readable_for_who_has_it(tmp_path: Path) -> None:
    copies = Copies(str(tmp_path), disk_gb=25_000 / 1e9)  # two of them
    first = copies.get("a", 11_000, "a", filled(1))
    other = Copies(str(tmp_path), disk_gb=25_000 / 1e9)
    other.get("b", 11_000, "b", filled(2))
    os.utime(tmp_path / "a.blob", (1, 1))
    other.get("c", 11_000, "c", filled(3))
    assert blobs(tmp_path) == {"b", "c"}
    assert first[9] == bytes([1]) * 1000
    assert first.gone()
    copies.get("b", 11_000, "b", filled(9))
    assert first.fd < 0, "its room is not free while it is open"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 25_000


@pytest.mark.parametrize("at", [0, 5000, -1, -20, None])
def test_a_damaged_copy_is_made_again(tmp_path: Path, at: int | None) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": [bytes([v]) * 3000 for v in range(9)]}), path, row_group_size=3)

    def found() -> rows.Rows:
        each = rows.Rows([path], np.array([0, 9]), "image", str(tmp_path / "scratch"))
        each._held = None  # as of a large column
        return each

    assert found()[1].as_py() == bytes([1]) * 3000
    (copy,) = (tmp_path / "scratch").glob("*.blob")
    data = bytearray(copy.read_bytes())
    if at is None:
        data = data[: len(data) // 2]
    else:
        data[at] ^= 0xFF
    copy.write_bytes(data)
    assert [found()[i].as_py() for i in range(3)] == [bytes([v]) * 3000 for v in range(3)]


def _make(folder: str, log: str) -> None:
    def make(writer: Writer) -> bytes:
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(0.2)
        return filled(7)(writer)

    assert Copies(folder).get("a", 11_000, "a", make)[3] == bytes([7]) * 1000


def test_processes_wait_for_the_one_that_makes_a_copy(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_make, args=(str(tmp_path / "scratch"), str(tmp_path / "log"))) for _ in range(2)]
    with quiet_start():
        for each in both:
            each.start()
    for each in both:
        each.join()
    assert [each.exitcode for each in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"
    assert sorted(path.suffix for path in (tmp_path / "scratch").iterdir() if path.name != ".lock") == [".blob"]


def test_what_a_killed_process_left_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "a.draft").write_bytes(b"x" * 20_000)
    copies = Copies(str(tmp_path), disk_gb=25_000 / 1e9)
    copies.get("b", 11_000, "b", filled(2))
    assert blobs(tmp_path) == {"b"}
    assert not list(tmp_path.glob("*.draft"))


def test_a_copy_larger_than_said_asks_for_more_room_and_one_without_is_refused(tmp_path: Path) -> None:
    copies = Copies(str(tmp_path), disk_gb=100_000 / 1e9)
    assert len(copies.get("a", 100, "a", filled(1))) == 10
    with pytest.raises(UserError, match=r"^data\.disk_gb: got 0\.0001, and the shard takes 0\.001 GB; .*data\.memory_gb"):
        copies.get("b", 1_000_000, "the shard", filled(2))
    assert not list(tmp_path.glob("*.draft"))


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[tuple[Remote, Path]]:
    """An object store and a folder whose files are put there."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    local = tmp_path / "local"
    local.mkdir()
    yield Remote(Storage("memory://bucket")), local
    system.store.clear()


def put(local: Path) -> list[str]:
    names = sorted(path.name for path in local.iterdir())
    for name in names:
        fsspec.filesystem("memory").pipe(f"/bucket/{name}", (local / name).read_bytes())
    return names


def values(split: EncodedSplit) -> list[int]:
    return [int(split.image(i, None)[0, 0, 0]) for i in range(len(split))]


@pytest.mark.parametrize("held", [0, 2**20])
def test_parquet_on_an_object_store(
    bucket: tuple[Remote, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(rows, "HELD", held)
    root, local = bucket
    for n in range(2):
        pq.write_table(
            table([cv2.imencode(".png", np.full((3, 3, 3), 4 * n + v, np.uint8))[1].tobytes() for v in range(4)], [0, 1, 2, 0]),
            local / f"train-{n}.parquet",
        )
    names = put(local)
    config = DataConfig(source="memory://bucket", scratch=str(tmp_path / "scratch"), memory_gb=0.0)
    train, test, _ = open_parquet(root, {name: footer_of(root / name) for name in names}, config)
    assert values(train) == list(range(8))
    assert train.classes == ["owl", "cat", "ant"]
    assert train.key(5) == "train-1.parquet 1"
    assert test is None
    assert len(blobs(tmp_path / "scratch")) == (0 if held else 2)
    assert train.content() == open_parquet(root, {name: footer_of(root / name) for name in names}, config)[0].content()


@pytest.mark.parametrize("kind", ["tar", "arrow"])
def test_archives_and_arrow_on_an_object_store_are_copied_as_they_are(
    bucket: tuple[Remote, Path], tmp_path: Path, kind: str
) -> None:
    root, local = bucket
    for n in range(2):
        if kind == "tar":
            shard(local / f"train-{n}.tar", range(4 * n, 4 * n + 4))
        else:
            written(
                local / f"train-{n}.arrow",
                table(
                    [cv2.imencode(".png", np.full((3, 3, 3), 4 * n + v, np.uint8))[1].tobytes() for v in range(4)], [0, 1, 2, 0]
                ),
            )
    names = put(local)
    config = DataConfig(source="memory://bucket", scratch=str(tmp_path / "scratch"), memory_gb=0.0)
    train, _, _ = (open_tars if kind == "tar" else open_arrow)(root, names, config)
    assert values(train) == list(range(8))
    held = train.shards()
    assert held is not None
    assert (held.sizes > 0).all()
    for copy in (tmp_path / "scratch").glob("*.blob"):
        data = bytearray(copy.read_bytes())
        data[700] ^= 1
        copy.write_bytes(data)
    assert values((open_tars if kind == "tar" else open_arrow)(root, names, config)[0]) == list(range(8))
