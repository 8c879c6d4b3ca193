"""A column of Parquet files by row number, in bounded memory.

Parquet can be read by row groups alone, which may be gigabytes. So a large column is copied once, uncompressed, to a file of this machine's disk
(`data.scratch`), which all processes map into memory and the system pages in and out; a small one is held.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, UserError
from .digests import digest

HELD = 64 * 2**20  # bytes up to which a column stays in memory
BATCH_BYTES = 16 * 2**20  # that are read at once
FORGET = 14 * 86400  # seconds after which a copy that nobody uses is removed, by the next one that is made
MOST_GROUPS = 8  # row groups that are looked into for a sample: a page of one may be all of it
SUFFIX = ".arrow"


class Rows:
    """`rows[i]` is the cell of row i over all files, an Arrow scalar. Nothing is read before the first access.

    Raises DataError naming a damaged file, UserError where memory or disk do not suffice, OSError where the system could not read, perhaps for now.
    """

    def __init__(self, files: Sequence[Path], column: str, scratch: str) -> None:
        self.files, self.column = list(files), column
        self.scratch = Path(scratch).expanduser() if scratch else Path(tempfile.gettempdir()) / f"contray-{os.getuid()}"
        self._loaded: pa.ChunkedArray | None = None

    def __getitem__(self, i: int) -> pa.Scalar:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded[i]  # pyright: ignore[reportOptionalSubscript]

    def close(self) -> None:
        self._loaded = None

    def size(self) -> int:
        """Bytes of the column, uncompressed, as the files' footers have it."""
        return sum(_column_bytes(_open(file), self.column) for file in self.files)

    def memory(self) -> str:
        """What reading at random takes, in words."""
        size = self.size()
        if size <= HELD:
            return f"{size / 1e6:.3g} MB encoded, in each worker"
        return f"{size / 1e9:.3g} GB encoded are copied to {self.scratch} once, and mapped by all workers of the machine"

    def __iter__(self) -> Iterator[pa.Scalar]:
        """Every cell in order, of which a few are in memory at once."""
        for batch in self._batches():
            yield from batch.column(0)

    def some(self, count: int) -> Iterator[tuple[int, pa.Scalar]]:
        """(row, cell) of about `count` rows: the first ones of row groups from all over the files."""
        tables = [(file, _open(file)) for file in self.files]
        groups = [(file, table, group) for file, table in tables for group in range(table.metadata.num_row_groups)]
        starts = np.cumsum([0, *(table.metadata.row_group(group).num_rows for _, table, group in groups)])
        chosen = np.unique(np.linspace(0, len(groups) - 1, min(count, MOST_GROUPS, len(groups))).astype(int)).tolist()
        each = -(-count // max(1, len(chosen)))
        for place in chosen:
            file, table, group = groups[place]
            with _told(file):
                batch = next(table.iter_batches(each, row_groups=[group], columns=[self.column]), None)
            yield from ((int(starts[place]) + k, cell) for k, cell in enumerate(batch.column(0) if batch is not None else ()))

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """Record batches of one column, all of the type that the first file has."""
        kind = None
        for file in self.files:
            with _told(file):
                table = _open(file)
                rows, size = table.metadata.num_rows, _column_bytes(table, self.column)
                at_once = max(1, min(rows, 4096, int(BATCH_BYTES * rows / max(size, 1))))
                for batch in table.iter_batches(at_once, columns=[self.column]):
                    kind = kind or batch.column(0).type
                    yield pa.record_batch([self._as(kind, batch.column(0), file)], names=[self.column])

    def _as(self, kind: pa.DataType, cells: pa.Array, file: Path) -> pa.Array:
        if cells.type == kind:
            return cells
        try:
            return cells.cast(kind)
        except pa.ArrowException:
            told = f"column {self.column!r} is {kind} in {self.files[0]} and {cells.type} in {file}"
            raise DataError(f"data.source: {told}; write the files alike, or give them as sets of their own") from None

    # ------------------------------------------------------------ the copy

    def _load(self) -> pa.ChunkedArray:
        if self.size() <= HELD:
            held = self._held()
            if held is not None:
                return held
        copy = pa.ipc.open_file(pa.memory_map(str(self._copied())))
        return pa.chunked_array([copy.get_batch(i).column(0) for i in range(copy.num_record_batches)])

    def _held(self) -> pa.ChunkedArray | None:
        """The column in memory; None where it is larger than its footers say, as repeated cells make it."""
        found, size = [], 0
        for batch in self._batches():
            size += batch.nbytes
            if size > HELD:
                return None
            found.append(batch.column(0))
        return pa.chunked_array(found)

    def _copied(self) -> Path:
        """The copy of these files' column, made where it does not stand yet; other processes wait for it."""
        from filelock import FileLock

        path = self.scratch / f"{self._key()}{SUFFIX}"
        with self._writing():
            self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.scratch.stat().st_uid != os.getuid():
                raise UserError(f"data.scratch: {self.scratch} belongs to another user; name a folder of your own")
            lock = FileLock(f"{path}.lock")
            lock.acquire()
        try:
            if not path.exists():
                self._forget()
                self._copy(path)
            with self._writing():
                os.utime(path)
        finally:
            lock.release()
        return path

    def _copy(self, path: Path) -> None:
        need, free = int(self.size() * 1.05) + 2**20, shutil.disk_usage(self.scratch).free
        if need > free:
            raise UserError(
                f"data.scratch: {self.scratch} has {free / 1e9:.3g} GB free, and column {self.column!r} takes {need / 1e9:.3g} GB there; "
                "name a folder on a larger disk, or raise data.cache_gb so that the decoded images are held instead"
            )
        draft = path.with_suffix(f".{os.getpid()}.draft")
        try:
            with contextlib.ExitStack() as opened:
                writer = None
                for batch in self._batches():
                    with self._writing():
                        writer = writer or opened.enter_context(pa.ipc.new_file(str(draft), batch.schema))
                        writer.write_batch(batch)
                with self._writing():
                    opened.close()
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"data.scratch: {self.scratch} cannot be written ({error}); name another folder") from None

    def _forget(self) -> None:
        for old in self.scratch.glob(f"*{SUFFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > FORGET:
                    old.unlink()  # whoever has mapped it keeps it

    def _key(self) -> str:
        """Changes when a file is replaced by another one."""
        facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        return digest(facts, self.column)


def _open(file: Path) -> pq.ParquetFile:
    with _told(file):
        return pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False)


def _column_bytes(table: pq.ParquetFile, column: str) -> int:
    groups = (table.metadata.row_group(g) for g in range(table.metadata.num_row_groups))
    chunks = (group.column(c) for group in groups for c in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """Errors of Arrow as what they are: too little memory, a file that could not be read now, or a damaged one."""
    try:
        yield
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise too_little_memory(file, error) from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(f"data.source: {file} is damaged ({_line(error)}); fetch it again, or leave it out") from None


def too_little_memory(file: Path, error: BaseException) -> UserError:
    return UserError(
        f"data.source: out of memory while reading {file} ({_line(error)}); the file may be whole, but this machine's memory is too small"
    )


def _line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
