"""A column of Parquet files by row number, in bounded memory.

Parquet can be read by row groups alone, which may be gigabytes. So of a large column the row groups that make a shard are copied once, uncompressed, to
this machine's disk (copies.py), where all processes read single rows; a small one is held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, UserError, shown
from .copies import Blob, Copies, Damaged, Writer
from .digests import digest
from .places import File, Remote, identity, opened
from .shards import LARGEST, SMALLEST, Shards

HELD = 64 * 2**20  # bytes up to which a column stays in memory
BATCH_BYTES = 4 * 2**20  # that are read at once
MOST_GROUPS, MOST_READ = 8, 8 * 2**20  # row groups that are looked into for a sample, and bytes of each
ROW_BYTES = 1024  # that a row takes in a copy besides its bytes, at most: its entry and Arrow's form of it


@dataclass(frozen=True)
class _Piece:
    """Row groups first to last - 1 of a file, as a shard."""

    file: int
    first: int
    last: int
    rows: int
    bytes: int


class Rows:
    """`rows[i]` is the cell of row i over all files, an Arrow scalar of its own file's type. Nothing is read before the first access.

    starts: (files + 1,) where each file's rows begin, and their number.
    Raises DataError naming a damaged file, UserError where memory or disk do not suffice, OSError where the system could not read, perhaps for now.
    """

    def __init__(self, files: Sequence[File], starts: np.ndarray, column: str, scratch: str, disk_gb: float = 0.0) -> None:
        self.files, self.starts, self.column = list(files), starts, column
        self.copies = Copies(scratch, disk_gb)
        self._groups: list[list[tuple[int, int]]] | None = None
        self._pieces: list[_Piece] = []
        self._shards: Shards | None = None
        self._held: dict[int, pa.ChunkedArray] | None = {}  # None: larger than its footers say
        self._keys: dict[int, str] = {}
        self._schemas: dict[int, pa.Schema] = {}

    def place(self, i: int) -> tuple[int, int]:
        """(file, row in it) of a row."""
        file = int(np.searchsorted(self.starts, i, side="right")) - 1
        return file, i - int(self.starts[file])

    def __getitem__(self, i: int) -> pa.Scalar:
        if self._held is not None and self.size() <= HELD:
            file, row = self.place(i)
            if file not in self._held:
                found = self._read_whole(file)
                if found is None:
                    self._held = None
                    return self[i]
                self._held[file] = found
            return self._held[file][row]
        shards = self.shards()
        shard = shards.of(i)
        return self._cell(shard, i - int(shards.starts[shard]))

    def close(self) -> None:
        self._held = {}
        self.copies.close()

    def groups(self) -> list[list[tuple[int, int]]]:
        """(rows, bytes of the column uncompressed) of each row group of each file, as the footers have it."""
        if self._groups is None:
            self._groups = [_groups(file, self.column) for file in self.files]
        return self._groups

    def size(self) -> int:
        """Bytes of the column in all files, uncompressed, as their footers have it."""
        return sum(size for file in self.groups() for _, size in file)

    def shards(self) -> Shards:
        """Consecutive row groups of a file, together as large as a shard should be."""
        if self._shards is None:
            self._pieces = [piece for file, groups in enumerate(self.groups()) for piece in _pieces(file, groups)]
            held = self.size() <= HELD
            self._shards = Shards(
                np.cumsum([0, *(piece.rows for piece in self._pieces)]),
                np.array([0 if held else _need(piece) for piece in self._pieces], np.int64),
                lambda shard: held or self.copies.fetch(*self._copied(shard)), self.copies.close, self.copies.limit,
            )  # fmt: skip
        return self._shards

    def memory(self) -> str:
        """What reading at random takes, in words."""
        size = self.size()
        if size <= HELD:
            return f"{size / 1e6:.3g} MB encoded, in each worker"
        return f"{size / 1e9:.3g} GB encoded are copied to {self.copies.folder} once, for all workers of the machine"

    def __iter__(self) -> Iterator[pa.Scalar]:
        """Every cell in order, of which a few are in memory at once."""
        for file in range(len(self.files)):
            for cells in self._batches(file):
                yield from cells

    def some(self, count: int) -> Iterator[tuple[int, pa.Scalar]]:
        """(row, cell) of about `count` rows: spread over row groups from all over the files, of each as far as MOST_READ reaches."""
        groups: list[tuple[int, int, int]] = []
        for file, (start, found) in enumerate(zip(self.starts.tolist(), self.groups(), strict=False)):
            before = np.cumsum([0, *(rows for rows, _ in found)])[:-1].tolist()
            groups += [(file, group, start + rows) for group, rows in enumerate(before)]
        chosen = np.unique(np.linspace(0, len(groups) - 1, min(count, MOST_GROUPS, len(groups))).astype(int)).tolist()
        each = -(-count // max(1, len(chosen)))
        for file, group, start in (groups[place] for place in chosen):
            rows, size = self.groups()[file][group]
            reached = rows if size <= MOST_READ else max(each, int(rows * MOST_READ / size))
            wanted = np.unique(np.linspace(0, min(rows, reached) - 1, min(each, rows)).astype(int)) if rows else np.empty(0, int)
            first = 0
            for cells in self._batches(file, group, group + 1):
                own = wanted[(wanted >= first) & (wanted < first + len(cells))].tolist()
                yield from ((start + row, cells[row - first]) for row in own)
                first += len(cells)
                if not len(wanted) or first > wanted[-1]:
                    break

    def _batches(self, file: int, first: int = 0, last: int | None = None) -> Iterator[pa.Array]:
        """The cells of a file, or of its row groups first to last - 1, some at a time."""
        groups = self.groups()[file][first:last]
        rows, size = sum(rows for rows, _ in groups), sum(size for _, size in groups)
        at_once = max(1, min(rows, 4096, int(BATCH_BYTES * rows / max(size, 1))))
        with table(self.files[file]) as found:
            for batch in found.iter_batches(
                at_once, row_groups=range(first, first + len(groups)), columns=[self.column], use_threads=False
            ):
                cells = batch.column(0)
                yield cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells

    def _read_whole(self, file: int) -> pa.ChunkedArray | None:
        """The column in memory; None where it is larger than its footers say, as repeated cells make it."""
        found, size = [], 0
        for cells in self._batches(file):
            size += cells.nbytes
            if size > HELD:
                return None
            found.append(cells)
        return pa.chunked_array(found)

    # ------------------------------------------------------------ the copies

    def _key(self, shard: int) -> str:
        piece = self._pieces[shard]
        if piece.file not in self._keys:
            self._keys[piece.file] = identity(self.files[piece.file])
        return digest(self._keys[piece.file], self.column, piece.first, piece.last)

    def _copied(self, shard: int) -> tuple[str, int, str, Callable[[Writer], bytes]]:
        """(key, bytes, what it is, how it is made) of a shard's copy."""
        piece = self._pieces[shard]
        what = f"column {self.column!r} of {shown(self.files[piece.file])}"
        return self._key(shard), _need(piece), what, lambda writer: self._copy(piece, writer)

    def _cell(self, shard: int, row: int) -> pa.Scalar:
        for _ in range(2):
            blob = self.copies.get(*self._copied(shard))
            try:
                return pa.ipc.read_record_batch(pa.py_buffer(blob[row]), self._schema(shard, blob)).column(0)[0]
            except Damaged:
                self.copies.spoilt(self._key(shard))
        raise DataError(f"data.scratch: {self.copies.folder} does not keep what is written to it; name another folder")

    def _schema(self, shard: int, blob: Blob) -> pa.Schema:
        file = self._pieces[shard].file
        if file not in self._schemas:
            self._schemas[file] = pa.ipc.read_schema(pa.py_buffer(blob.about()))
        return self._schemas[file]

    def _copy(self, piece: _Piece, writer: Writer) -> bytes:
        """Each row as Arrow writes a batch of it alone; gives the schema."""
        schema: pa.Schema | None = None
        for cells in self._batches(piece.file, piece.first, piece.last):
            whole = pa.record_batch([cells.cast(_flat(cells.type))], names=["cell"])
            schema = whole.schema
            for row in range(whole.num_rows):
                writer.write(memoryview(whole.slice(row, 1).serialize()))
        return b"" if schema is None else schema.serialize().to_pybytes()


def _pieces(file: int, groups: Sequence[tuple[int, int]]) -> Iterator[_Piece]:
    first, rows, size = 0, 0, 0
    for group, (more, grown) in enumerate(groups):
        if size >= SMALLEST or (size and size + grown > LARGEST):
            yield _Piece(file, first, group, rows, size)
            first, rows, size = group, 0, 0
        rows, size = rows + more, size + grown
    if rows:
        yield _Piece(file, first, len(groups), rows, size)


def _need(piece: _Piece) -> int:
    return piece.bytes + ROW_BYTES * piece.rows + 2**16


def _flat(kind: pa.DataType) -> pa.DataType:
    """Without views, of which Arrow writes a row with all that its batch holds."""
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_flat(field.type)) for field in kind])
    return kind


def _groups(file: File, column: str) -> list[tuple[int, int]]:
    with table(file) as found:
        groups = [found.metadata.row_group(group) for group in range(found.metadata.num_row_groups)]
        paths = [found.metadata.schema.column(at).path for at in range(found.metadata.num_columns)]
        others = set(found.schema_arrow.names) - {column}  # a name may have a dot in it
        columns = [
            at for at, path in enumerate(paths) if path == column or (path.startswith(f"{column}.") and path not in others)
        ]
        return [(group.num_rows, sum(group.column(at).total_uncompressed_size for at in columns)) for group in groups]


@contextlib.contextmanager
def table(file: File) -> Iterator[pq.ParquetFile]:
    """An open Parquet file. Raises DataError where it is none, is damaged or cannot be read, UserError where memory does not suffice."""
    problem = "is no readable Parquet file"
    try:
        buffer = 8 * 2**20 if isinstance(file, Remote) else 2**20
        with opened(file) as source, pq.ParquetFile(source, buffer_size=buffer, pre_buffer=False) as found:
            problem = "is damaged"
            yield found
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise UserError(
            f"data.source: out of memory while reading {shown(file)} ({_line(error)}); the file may be whole, but this machine's memory is too small"
        ) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: names in the footer
        if isinstance(error, OSError) and error.errno and not isinstance(error, PermissionError | FileNotFoundError):
            raise
        if isinstance(file, Remote) and isinstance(error, OSError) and not isinstance(error, PermissionError | FileNotFoundError):
            raise  # a store that does not answer gives no number; whoever reads a row tries again
        if _is_pointer(file):
            raise DataError(
                f"data.source: {shown(file)} is a pointer of Git LFS, not the data; fetch it with git lfs pull"
            ) from error
        raise DataError(f"data.source: {shown(file)} {problem} ({_line(error)}); fetch it again, or leave it out") from error


def _is_pointer(file: File) -> bool:
    with contextlib.suppress(OSError), opened(file) as source:
        return source.read(23) == b"version https://git-lfs"
    return False


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
