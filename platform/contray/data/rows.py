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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, UserError, shown
from .digests import digest

HELD = 64 * 2**20  # bytes up to which a column stays in memory
BATCH_BYTES = 16 * 2**20  # that are read at once
FORGET = 14 * 86400  # seconds after which a copy that nobody uses is removed, by the next one that is made
MOST_GROUPS = 8  # row groups that are looked into for a sample: a page of one may be all of it
SUFFIX = ".arrow"


class Rows:
    """`rows[i]` is the cell of row i over all files, an Arrow scalar of its own file's type. Nothing is read before the first access.

    starts: (files + 1,) where each file's rows begin, and their number.
    Raises DataError naming a damaged file, UserError where memory or disk do not suffice, OSError where the system could not read, perhaps for now.
    """

    def __init__(self, files: Sequence[Path], starts: np.ndarray, column: str, scratch: str) -> None:
        self.files, self.starts, self.column = list(files), starts, column
        self.scratch = Path(scratch).expanduser() if scratch else Path(tempfile.gettempdir()) / f"contray-{os.getuid()}"
        self._size = -1
        self._loaded: dict[int, pa.ChunkedArray] = {}

    def place(self, i: int) -> tuple[int, int]:
        """(file, row in it) of a row."""
        file = int(np.searchsorted(self.starts, i, side="right")) - 1
        return file, i - int(self.starts[file])

    def __getitem__(self, i: int) -> pa.Scalar:
        file, row = self.place(i)
        if file not in self._loaded:
            self._loaded[file] = self._load(self.files[file])
        return self._loaded[file][row]

    def close(self) -> None:
        self._loaded = {}

    def size(self) -> int:
        """Bytes of the column in all files, uncompressed, as their footers have it."""
        if self._size < 0:
            self._size = sum(_column_bytes(file, self.column) for file in self.files)
        return self._size

    def memory(self) -> str:
        """What reading at random takes, in words."""
        size = self.size()
        if size <= HELD:
            return f"{size / 1e6:.3g} MB encoded, in each worker"
        return f"{size / 1e9:.3g} GB encoded are copied to {self.scratch} once, and mapped by all workers of the machine"

    def __iter__(self) -> Iterator[pa.Scalar]:
        """Every cell in order, of which a few are in memory at once."""
        for file in self.files:
            for cells in self._batches(file):
                yield from cells

    def some(self, count: int) -> Iterator[tuple[int, pa.Scalar]]:
        """(row, cell) of about `count` rows: the first ones of row groups from all over the files."""
        groups: list[tuple[Path, int, int]] = []
        for start, file in zip(self.starts.tolist(), self.files, strict=False):
            with table(file) as found:
                rows = [found.metadata.row_group(group).num_rows for group in range(found.metadata.num_row_groups)]
            groups += [(file, group, start + before) for group, before in enumerate(np.cumsum([0, *rows])[:-1].tolist())]
        chosen = np.unique(np.linspace(0, len(groups) - 1, min(count, MOST_GROUPS, len(groups))).astype(int)).tolist()
        each = -(-count // max(1, len(chosen)))
        for file, group, start in (groups[place] for place in chosen):
            with table(file) as found:
                batch = next(found.iter_batches(each, row_groups=[group], columns=[self.column]), None)
                cells = [] if batch is None else list(batch.column(0))
            yield from ((start + k, cell) for k, cell in enumerate(cells))

    def _batches(self, file: Path) -> Iterator[pa.Array]:
        """The cells of a file, some at a time."""
        size = _column_bytes(file, self.column)
        with table(file) as found:
            rows = found.metadata.num_rows
            at_once = max(1, min(rows, 4096, int(BATCH_BYTES * rows / max(size, 1))))
            for batch in found.iter_batches(at_once, columns=[self.column]):
                cells = batch.column(0)
                yield cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells

    # ------------------------------------------------------------ the copy

    def _load(self, file: Path) -> pa.ChunkedArray:
        """The column of a file: held where all files' together are small, else mapped from its copy."""
        held = self._held(file) if self.size() <= HELD else None
        if held is not None:
            return held
        copy = pa.ipc.open_file(pa.memory_map(str(self._copied(file))))
        return pa.chunked_array([copy.get_batch(i).column(0) for i in range(copy.num_record_batches)])

    def _held(self, file: Path) -> pa.ChunkedArray | None:
        """The column in memory; None where it is larger than its footers say, as repeated cells make it."""
        found, size = [], 0
        for cells in self._batches(file):
            size += cells.nbytes
            if size > HELD:
                return None
            found.append(cells)
        return pa.chunked_array(found)

    def _copied(self, file: Path) -> Path:
        """The copy of a file's column, made where it does not stand yet; other processes wait for it."""
        from filelock import FileLock

        path = self.scratch / f"{self._key(file)}{SUFFIX}"
        with self._writing():
            self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.scratch.stat().st_uid != os.getuid():
                raise UserError(f"data.scratch: {self.scratch} belongs to another user; name a folder of your own")
            lock = FileLock(f"{path}.lock")
            lock.acquire()
        try:
            if not path.exists():
                self._forget()
                self._copy(file, path)
            with self._writing():
                os.utime(path)
        finally:
            lock.release()
        return path

    def _copy(self, file: Path, path: Path) -> None:
        need, free = int(_column_bytes(file, self.column) * 1.05) + 2**20, shutil.disk_usage(self.scratch).free
        if need > free:
            raise UserError(
                f"data.scratch: {self.scratch} has {free / 1e9:.3g} GB free, and column {self.column!r} of {shown(file)} takes {need / 1e9:.3g} GB there; "
                "name a folder on a larger disk, or raise data.cache_gb so that the decoded images are held instead"
            )
        draft = path.with_suffix(f".{os.getpid()}.draft")
        try:
            with contextlib.ExitStack() as opened:
                writer = None
                for cells in self._batches(file):
                    batch = pa.record_batch([cells], names=[self.column])
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

    def _key(self, file: Path) -> str:
        """Changes when the file is replaced by another one, also where unpacking gave that the same size and time."""
        facts = file.stat()
        return digest(os.fsencode(file.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, self.column)


def _column_bytes(file: Path, column: str) -> int:
    with table(file) as found:
        groups = (found.metadata.row_group(g) for g in range(found.metadata.num_row_groups))
        chunks = (group.column(c) for group in groups for c in range(group.num_columns))
        return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


@contextlib.contextmanager
def table(file: Path) -> Iterator[pq.ParquetFile]:
    """An open Parquet file. Raises DataError where it is none, is damaged or cannot be read, UserError where memory does not suffice."""
    problem = "is no readable Parquet file"
    try:
        # Arrow opens no path that is not UTF-8
        with open(file, "rb") as opened, pq.ParquetFile(opened, buffer_size=2**20, pre_buffer=False) as found:
            problem = "is damaged"
            yield found
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise UserError(
            f"data.source: out of memory while reading {shown(file)} ({_line(error)}); the file may be whole, but this machine's memory is too small"
        ) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: names in the footer
        if isinstance(error, OSError) and error.errno and not isinstance(error, PermissionError | FileNotFoundError):
            raise
        if _is_pointer(file):
            raise DataError(
                f"data.source: {shown(file)} is a pointer of Git LFS, not the data; fetch it with git lfs pull"
            ) from error
        raise DataError(f"data.source: {shown(file)} {problem} ({_line(error)}); fetch it again, or leave it out") from error


def _is_pointer(file: Path) -> bool:
    with contextlib.suppress(OSError), open(file, "rb") as opened:
        return opened.read(23) == b"version https://git-lfs"
    return False


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
