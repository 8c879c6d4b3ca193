"""Parquet columns by row number: large ones are mapped from a copy, and what goes wrong is called by its name."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contray.config.sections import DataConfig
from contray.data import copies as copying
from contray.data import open_source, rows
from contray.data.rows import Rows
from contray.errors import DataError, UserError


def png(value: int, side: int = 6) -> bytes:
    return cv2.imencode(".png", np.full((side, side, 3), value, np.uint8))[1].tobytes()


def written(path: Path, cells: list[Any], group: int = 3, kind: pa.DataType | None = None) -> Path:
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), path, row_group_size=group)
    return path


def rows_of(files: list[Path], scratch: str) -> Rows:
    return Rows(files, np.cumsum([0, *(pq.read_metadata(file).num_rows for file in files)]), "image", scratch)


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every column is large; the folder of the copies."""
    monkeypatch.setattr(rows, "HELD", 0)
    return tmp_path / "scratch"


def copies(scratch: Path) -> list[Path]:
    return sorted(scratch.glob("*.blob"))


@settings(derandomize=True, deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.none() | st.binary(max_size=20), min_size=1, max_size=9), min_size=1, max_size=3),
    st.integers(1, 4),
    st.booleans(),
)
def test_a_copy_holds_what_the_files_hold(tmp_path: Path, files: list[list[bytes | None]], group: int, held: bool) -> None:
    for old in tmp_path.glob("*.parquet"):
        old.unlink()
    paths = [written(tmp_path / f"{n}.parquet", cells, group, pa.binary()) for n, cells in enumerate(files)]
    cells = [cell for each in files for cell in each]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows, "HELD", 2**20 if held else 0)
        patched.setattr(rows, "BATCH_BYTES", 10)
        found = rows_of(paths, str(tmp_path / "scratch"))
        assert [found[i].as_py() for i in range(len(cells))] == cells
        assert [cell.as_py() for cell in found] == cells
        assert all(cell.as_py() == cells[i] for i, cell in found.some(5))


def test_processes_share_one_copy_and_a_changed_file_has_another(mapped: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "train.parquet", [png(1), png(2), None])
    config = DataConfig(source=str(path), memory_gb=0.0, scratch=str(mapped))
    for _ in range(2):
        split = open_source(config).train
        split.prepare()
        assert split.image(1, None)[0, 0, 0] == 2
    (copy,) = copies(mapped)
    assert mapped.stat().st_mode & 0o077 == 0
    before = copy.stat().st_ino
    os.utime(path, ns=(0, 0))  # replaced, as far as one can see
    written(path, [png(3), png(4), None])
    assert open_source(config).train.image(1, None)[0, 0, 0] == 4
    assert before in [each.stat().st_ino for each in copies(mapped)]
    assert len(copies(mapped)) == 2


def test_a_file_replaced_by_one_of_equal_size_and_time_is_read_anew(mapped: Path, tmp_path: Path) -> None:
    for value in (1, 2):
        path = written(tmp_path / "train.parquet", [bytes([value])] * 3, kind=pa.binary())
        os.utime(path, ns=(10**18, 10**18))
        assert rows_of([path], str(mapped))[1].as_py() == bytes([value])


def test_where_the_decoded_images_fit_nothing_is_copied(mapped: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "train.parquet", [png(i) for i in range(200)] + [b"junk", None], group=50)
    split = open_source(DataConfig(source=str(path), scratch=str(mapped))).train
    split.prepare()
    assert [split.image(i, None)[0, 0, 0] for i in range(200)] == list(range(200))
    assert set(split.broken) == {200, 201}
    assert not mapped.exists()


def test_repeated_cells_are_larger_than_the_footer_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "HELD", 50_000)
    cell = png(1) + b"\0" * 2000
    path = written(tmp_path / "train.parquet", [cell] * 100, group=100)
    found = rows_of([path], str(tmp_path / "scratch"))
    assert found.size() < 50_000 < 100 * len(cell)
    assert found[99].as_py() == cell
    assert copies(tmp_path / "scratch")


def test_copies_that_nobody_uses_are_removed(mapped: Path, tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{n}.parquet", [png(n)]) for n in range(3)]
    for path in paths[:2]:
        assert rows_of([path], str(mapped))[0].is_valid
    old, _ = copies(mapped)
    os.utime(old, (time.time() - copying.FORGET - 60,) * 2)
    assert rows_of(paths[2:], str(mapped))[0].is_valid
    assert old not in copies(mapped)
    assert len(copies(mapped)) == 2


def test_too_little_disk_is_said_before_anything_is_written(
    mapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "train.parquet", [png(1)])
    monkeypatch.setattr(copying.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(
        UserError, match=r"^data\.scratch: .* has 1e-06 GB free, and column 'image' of .* takes .* GB there; .*data\.memory_gb"
    ):
        rows_of([path], str(mapped))[0]
    assert not copies(mapped)


def test_a_disk_that_fills_is_told_as_such(mapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "train.parquet", [png(1)])

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copying.os, "replace", full)
    with pytest.raises(
        UserError, match=r"^data\.scratch: .* cannot be written \(.*No space left on device\); name another folder"
    ):
        rows_of([path], str(mapped))[0]
    assert not [name for name in os.listdir(mapped) if name != ".lock"]


@pytest.mark.parametrize("error", [MemoryError(), pa.ArrowMemoryError("malloc of size 2000000000 failed")])
def test_too_little_memory_is_no_damage(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "train.parquet", [png(1)])

    def fails(*args: object, **kwargs: object) -> None:
        raise error

    found = rows_of([path], str(tmp_path))
    monkeypatch.setattr(rows.pq.ParquetFile, "iter_batches", fails)
    with pytest.raises(UserError, match=rf"^data\.source: out of memory while reading {path} .* whole") as caught:
        found[0]
    assert "\n" not in str(caught.value)


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(DataError, match=r"train\.parquet is a pointer of Git LFS, not the data; fetch it with git lfs pull"):
        open_source(DataConfig(source=str(path)))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{n}.parquet", [os.urandom(3000) for _ in range(20)]) for n in range(2)]
    data = bytearray(paths[1].read_bytes())
    data[4:400] = bytes(396)
    paths[1].write_bytes(data)
    with pytest.raises(DataError, match=rf"^data\.source: {paths[1]} is damaged"):
        rows_of(paths, str(tmp_path))[20]


@pytest.mark.parametrize("held", [0, 2**20])
def test_files_of_two_layouts_are_each_read_by_their_own(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "HELD", held)
    plain = written(tmp_path / "0.parquet", [png(1)])
    struct = written(tmp_path / "1.parquet", [{"bytes": png(2), "path": None}])
    found = rows_of([plain, struct], str(tmp_path))
    assert [found[0].as_py(), found[1].as_py()["bytes"]] == [png(1), png(2)]
