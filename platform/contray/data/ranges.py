"""Images that lie in larger files byte for byte, such as tar archives: an index tells where, and each is read by itself.

The index of a file is made once and kept in data.scratch under the file's identity, so that a file that is added is looked through alone. It is mapped:
a million names take no memory of their own. A file on an object store is copied as it is, for its members lie close together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ..config.sections import DataConfig
from ..errors import DataError, UserError, shown
from ..processors import processors
from .batches import quiet_start
from .copies import INDEX, OPEN, Blob, Copies, Damaged, Writer
from .digests import digest
from .parquet import cell_bytes, read_file, read_stored
from .pixels import BrokenImage
from .places import File, Remote, content, folder_of, identity, opened, size_of
from .progress import progress
from .scratch import make
from .shards import Shards
from .splits import Encoded

PAGE = 2**16  # bytes of a record of a copy
NONE = -1  # size of an image that is not there; a text of n bytes that names its file has size -2 - n
_FORM = 1  # of an index; raised whenever another one is made of the same file
_MANY = 8  # files from which processes look through them


@dataclass(frozen=True)
class Index:
    """offsets, sizes: (n,) int64 of the images; ends: (n,) where each name ends in `names`; labels: (n,) int32 of `values`, -1 for none.

    facts: counts that are worth a word.
    """

    bytes: int
    offsets: np.ndarray
    sizes: np.ndarray
    ends: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    values: list[Any]
    facts: Mapping[str, Any]

    def name(self, row: int) -> str:
        if not len(self.ends):
            return f"row {row}"
        start = int(self.ends[row - 1]) if row else 0
        return os.fsdecode(self.names[start : int(self.ends[row])].tobytes())


_ARRAYS = {"offsets": np.int64, "sizes": np.int64, "ends": np.int64, "labels": np.int32, "names": np.uint8}
Look = Callable[
    [int, int, File], Index
]  # (descriptor, bytes, file) -> its index; raises UserError. Bytes may follow that are not the file's


def _write(index: Index, path: Path) -> None:
    arrays = [np.ascontiguousarray(getattr(index, name), kind) for name, kind in _ARRAYS.items()]
    head = json.dumps(
        {"lengths": [len(each) for each in arrays], "bytes": index.bytes, "values": index.values, "facts": index.facts}
    ).encode()
    head += b" " * (-len(head) % 8)
    draft = path.with_suffix(f".{os.getpid()}.making")
    try:
        with open(draft, "wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            found = hashlib.blake2b(head, digest_size=16)
            for each in arrays:
                data = each.tobytes() + bytes(-each.nbytes % 8)
                found.update(data)
                file.write(data)
            file.write(found.digest())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> Index | None:
    """None where there is none, or what stands there is not whole."""
    try:
        mapped = np.memmap(path, np.uint8, "r")
        length = int.from_bytes(mapped[:8].tobytes(), "little")
        head, at, arrays = json.loads(mapped[8 : 8 + length].tobytes()), 8 + length, {}
        for count, (name, kind) in zip(head["lengths"], _ARRAYS.items(), strict=True):
            size = count * np.dtype(kind).itemsize
            arrays[name] = mapped[at : at + size].view(kind)
            at += size + -size % 8
        if hashlib.blake2b(mapped[8:at].tobytes(), digest_size=16).digest() != mapped[at:].tobytes():
            return None
        os.utime(path)
        return Index(head["bytes"], values=head["values"], facts=head["facts"], **arrays)
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Ranges:
    """The images of some files, by number. names: of the files relative to `root`, "" of `root` itself; look: how a file is looked through."""

    def __init__(self, root: File, names: Sequence[str], config: DataConfig, look: Look) -> None:
        self.files, self.names = [root / name if name else root for name in names], [name or root.name for name in names]
        self.copies, self._look = Copies(config.scratch, config.disk_gb), look
        self._open: OrderedDict[int, int] = OrderedDict()
        self._pid = os.getpid()
        self._keys = [identity(file) for file in self.files]
        self.indices = self._indexed(digest(_FORM, config.image_column, config.label_column))
        self.starts = np.cumsum([0, *(len(index.sizes) for index in self.indices)])

    def encoded(self) -> Encoded:
        return Encoded(
            int(self.starts[-1]), self.read, self.describe, self.content, self.key, self.close, shards=self.shards, memory=self.memory,
        )  # fmt: skip

    def shards(self) -> Shards:
        sizes = np.array(
            [_need(index.bytes) if isinstance(file, Remote) else 0 for file, index in zip(self.files, self.indices, strict=True)],
            np.int64,
        )
        return Shards(self.starts, sizes, self._fetch, self.close, self.copies.limit)

    def memory(self) -> str:
        size = sum(index.bytes for index in self.indices)
        how = (
            f"copied to {self.copies.folder}, for all workers of the machine"
            if isinstance(self.files[0], Remote)
            else "read where they lie"
        )
        return f"{size / 1e9:.3g} GB in {len(self.files):,} files are {how}"

    def place(self, i: int) -> tuple[int, int]:
        """(file, row in it) of an image."""
        file = int(np.searchsorted(self.starts, i, side="right")) - 1
        return file, i - int(self.starts[file])

    def describe(self, i: int) -> str:
        file, row = self.place(i)
        return f"{shown(self.files[file])} {shown(self.indices[file].name(row))}"

    def key(self, i: int) -> str:
        file, row = self.place(i)
        return f"{self.names[file]} {self.indices[file].name(row)}"

    def content(self) -> str:
        return digest(content(self.files), *(part for index in self.indices for part in (index.offsets, index.sizes)))

    def read(self, i: int) -> bytes | memoryview | None:
        """Raises BrokenImage where a name leads to no file, DataError where a file was changed, UserError where memory or disk do not suffice."""
        file, row = self.place(i)
        index = self.indices[file]
        offset, size = int(index.offsets[row]), int(index.sizes[row])
        if size >= 0:
            return self._bytes(file, size, offset)
        if size == NONE:
            return None
        try:
            named = self._bytes(file, NONE - 1 - size, offset).decode()
        except UnicodeDecodeError:
            raise BrokenImage(self.describe(i), "the path in it is no text") from None
        where = self.files[file]
        return cell_bytes(
            {"path": named}, folder_of(where), partial(read_stored, where.storage) if isinstance(where, Remote) else read_file
        )

    def close(self) -> None:
        self.copies.close()
        while self._open:
            os.close(self._open.popitem()[1])

    # ------------------------------------------------------------ bytes of a file

    def _bytes(self, file: int, size: int, offset: int) -> bytes:
        where, whole = self.files[file], self.indices[file].bytes
        try:
            found = (
                self._copied(where, self._keys[file], whole, size, offset)
                if isinstance(where, Remote)
                else os.pread(self._fd(file), size, offset)
            )
        except MemoryError as error:
            raise UserError(f"data.source: out of memory while reading {size / 1e6:.3g} MB of {shown(where)} ({error})") from None
        if len(found) < size:
            raise DataError(f"data.source: {shown(where)} was cut off or written anew while it was read; start again")
        return found

    def _fd(self, file: int) -> int:
        # the place of a descriptor is its parent's too, and pread moves none: closing is each process's own
        if self._pid != os.getpid():
            self.close()
            self._pid = os.getpid()
        if file not in self._open:
            while len(self._open) >= OPEN:
                os.close(self._open.popitem(last=False)[1])
            fd = os.open(self.files[file], os.O_RDONLY | os.O_CLOEXEC)  # pyright: ignore[reportArgumentType]
            if os.fstat(fd).st_size != self.indices[file].bytes:
                os.close(fd)
                raise DataError(
                    f"data.source: {shown(self.files[file])} was cut off or written anew while it was read; start again"
                )
            self._open[file] = fd
        self._open.move_to_end(file)
        return self._open[file]

    def _copied(self, file: Remote, key: str, whole: int, size: int, offset: int) -> bytes:
        for _ in range(2):
            blob = self.copies.get(*_copy(file, key, whole))
            try:
                return _span(blob, size, offset)
            except Damaged:
                self.copies.spoilt(key)
        raise DataError(f"data.scratch: {self.copies.folder} does not keep what is written to it; name another folder")

    def _fetch(self, file: int) -> bool:
        where = self.files[file]
        return not isinstance(where, Remote) or self.copies.fetch(*_copy(where, self._keys[file], self.indices[file].bytes))

    # ------------------------------------------------------------ the index

    def _indexed(self, about: str) -> list[Index]:
        make(self.copies.folder)
        paths = [self.copies.folder / f"{digest(key, about)}{INDEX}" for key in self._keys]
        found = [_read(path) for path in paths]
        missing = [place for place, index in enumerate(found) if index is None]
        work = [(self.files[place], self._keys[place], self.copies, self._look, paths[place]) for place in missing]
        for error in _all(work):
            if error is not None:
                raise error
        for place in missing:
            with self.copies.writing():
                found[place] = _read(paths[place])
        assert all(index is not None for index in found)
        return found  # pyright: ignore[reportReturnType]


def _all(work: Sequence[tuple[File, str, Copies, Look, Path]]) -> Any:
    """What each of the jobs raised; in processes where there are many, with a progress bar."""
    if len(work) < _MANY:
        yield from (_job(each) for each in work)
        return
    pool = ProcessPoolExecutor(min(processors(), len(work)), get_context("fork"))
    with quiet_start(), pool, progress("looking through shards", len(work), _MANY) as advance:
        for error in pool.map(_job, work):
            advance(1)
            yield error


def _job(work: tuple[File, str, Copies, Look, Path]) -> UserError | OSError | None:
    """Make an index; what a user can mend comes back as a value, which every process can hand on."""
    file, key, copies, look, path = work
    try:
        size = size_of(file)
        if isinstance(file, Remote):
            index = look(copies.get(*_copy(file, key, size)).fd, size, file)
        else:
            with open(file, "rb", buffering=0) as source:
                index = look(source.fileno(), size, file)
        with copies.writing():
            _write(index, path)
    except UserError as error:
        return error
    except MemoryError:
        return UserError(f"data.source: out of memory while looking through {shown(file)}")
    except OSError as error:
        return error
    return None


def _need(size: int) -> int:
    return size + 12 * (size // PAGE + 1) + 2**16


def _copy(file: Remote, key: str, size: int) -> tuple[str, int, str, Callable[[Writer], bytes]]:
    """(key, bytes, what it is, how it is made) of the copy of a whole file."""

    def make(writer: Writer) -> bytes:
        with opened(file) as source:
            while data := source.read(64 * PAGE):
                for start in range(0, len(data), PAGE):
                    writer.write(data[start : start + PAGE])
        return b""

    return key, _need(size), shown(file), make


def _span(blob: Blob, size: int, offset: int) -> bytes:
    """Bytes of the file that a blob is a copy of."""
    first = offset // PAGE
    last = min(len(blob), -(-(offset + size) // PAGE))
    found = b"".join(blob[page] for page in range(first, last))
    return found[offset - first * PAGE : offset - first * PAGE + size]
