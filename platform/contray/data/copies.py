"""Copies of shards on this machine's disk (`data.scratch`), within a budget (`data.disk_gb`): the least recently used one leaves first.

A copy is a blob: records one after the other, a table of their ends and checksums, some bytes about them, and a trailer. It is read by pread, so
that no process holds more of it than the record that it asked for. One process makes a copy while others wait for it; a blob that is unlinked
stays readable for whoever has it open, and every process closes such blobs when it opens another.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import time
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UserError
from .scratch import make as make_folder
from .scratch import scratch_of, writing

FORGET = 14 * 86400  # seconds after which a copy that nobody uses is removed, by the next one that is made
OPEN = 64  # blobs that a process has open
SHARE = 0.9  # of what is free, where data.disk_gb is 0
BLOB, DRAFT, INDEX = ".blob", ".draft", ".index"
_ENTRY, _TRAILER, _MAGIC = struct.Struct("<QI"), struct.Struct("<QQ8s"), b"contray1"
_TOUCH = 20.0  # seconds between two notes that a blob is in use


class Damaged(Exception):
    """A copy is not what was written: cut off, or changed."""


class Writer:
    """Writes a blob into a draft, for which more room is asked as it grows. Raises UserError where the disk fails or does not suffice."""

    def __init__(self, file: BinaryIO, copies: Copies, need: int, what: str) -> None:
        self.file, self.copies, self.what = file, copies, what
        self.at, self.ends, self.sums = 0, array("Q"), array("I")
        with copies.writing():
            file.truncate(0)
        self._reserved = copies.room(file, need, what)

    def write(self, record: bytes | memoryview) -> None:
        self.at += len(record)
        if self.at + _ENTRY.size * (len(self.ends) + 1) > self._reserved:
            self._reserved = self.copies.room(self.file, 2 * self.at + 2**16, self.what)
        with self.copies.writing():
            self.file.write(record)
        self.ends.append(self.at)
        self.sums.append(zlib.crc32(record))

    def finish(self, about: bytes) -> None:
        table = np.empty(len(self.ends), np.dtype([("end", "<u8"), ("sum", "<u4")]))
        table["end"], table["sum"] = self.ends, self.sums
        with self.copies.writing():
            self.file.write(table.tobytes())
            self.file.write(about)
            self.file.write(_TRAILER.pack(len(self.ends), len(about), _MAGIC))
            self.file.truncate(self.file.tell())
            self.file.flush()


class Blob:
    """Records by number, of a file that is open. Raises Damaged, also on construction, and OSError where the disk fails."""

    def __init__(self, path: Path) -> None:
        self.path, self.touched, self.fd = path, time.monotonic(), -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(self.fd).st_size
            tail = os.pread(self.fd, _TRAILER.size, max(0, size - _TRAILER.size))
            if len(tail) < _TRAILER.size:
                raise Damaged
            self.count, self._about, magic = _TRAILER.unpack(tail)
            self._table = size - _TRAILER.size - self._about - _ENTRY.size * self.count
            if magic != _MAGIC or self._table < 0 or self._table != (self._entry(self.count - 1)[0] if self.count else 0):
                raise Damaged
            os.utime(self.fd)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self.count

    def about(self) -> bytes:
        return os.pread(self.fd, self._about, self._table + _ENTRY.size * self.count)

    def __getitem__(self, i: int) -> bytes:
        start = self._entry(i - 1)[0] if i else 0
        end, checksum = self._entry(i)
        data = os.pread(self.fd, end - start, start) if start <= end <= self._table else b""
        if len(data) != end - start or zlib.crc32(data) != checksum:
            raise Damaged
        return data

    def touch(self) -> None:
        """Note now and then that it is in use, which decides what leaves first."""
        now = time.monotonic()
        if now - self.touched > _TOUCH:
            self.touched = now
            os.utime(self.fd)

    def gone(self) -> bool:
        """Whether the file was unlinked: its space is free once nobody has it open."""
        return os.fstat(self.fd).st_nlink == 0

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()

    def _entry(self, i: int) -> tuple[int, int]:
        found = os.pread(self.fd, _ENTRY.size, self._table + _ENTRY.size * i)
        if len(found) < _ENTRY.size:
            raise Damaged
        return _ENTRY.unpack(found)


Make = Callable[[Writer], bytes]  # writes the records and gives what is to be known about them


class Copies:
    """The copies of a folder. scratch: empty for contray-UID in the system's temporary folder; disk_gb: 0 for SHARE of what is free."""

    def __init__(self, scratch: str, disk_gb: float = 0.0) -> None:
        self.folder = scratch_of(scratch)
        self.disk_gb = disk_gb
        self._open: OrderedDict[str, Blob] = OrderedDict()
        self._pid = os.getpid()

    def get(self, key: str, need: int, what: str, make: Make) -> Blob:
        """The blob of a key, open; made by `make` where it does not stand yet. need: bytes that it will take; what: of what, for messages."""
        if self._pid != os.getpid():  # a forked process lets go of what its parent had open
            self.close()
            self._pid = os.getpid()
        blob = self._open.get(key)
        if blob is not None:
            self._open.move_to_end(key)
            blob.touch()
            return blob
        for old in [name for name, each in self._open.items() if each.gone()]:
            self._open.pop(old).close()
        while len(self._open) >= OPEN:
            self._open.popitem(last=False)[1].close()
        blob = self._stands(key) or self._made(key, need, what, make, wait=True)
        assert blob is not None
        self._open[key] = blob
        return blob

    def fetch(self, key: str, need: int, what: str, make: Make) -> bool:
        """See that the copy stands; False where another process is making it."""
        blob = self._stands(key) or self._made(key, need, what, make, wait=False)
        if blob is not None:
            blob.close()
        return blob is not None

    def spoilt(self, key: str) -> None:
        """Remove a copy that was found damaged."""
        with suppress(KeyError):
            self._open.pop(key).close()
        (self.folder / f"{key}{BLOB}").unlink(missing_ok=True)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def limit(self) -> float:
        """Bytes that all copies may take together."""
        if self.disk_gb:
            return self.disk_gb * 1e9
        place = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        taken = 0
        for _, _, path in self._standing():
            with suppress(FileNotFoundError):
                taken += path.stat().st_blocks * 512
        return SHARE * (shutil.disk_usage(place).free + taken)

    def writing(self) -> AbstractContextManager[None]:
        return writing(self.folder)

    # ------------------------------------------------------------ how a copy is made

    def _stands(self, key: str) -> Blob | None:
        path = self.folder / f"{key}{BLOB}"
        try:
            return Blob(path)
        except FileNotFoundError:
            return None
        except Damaged:
            path.unlink(missing_ok=True)
            return None

    def _made(self, key: str, need: int, what: str, make: Make, wait: bool) -> Blob | None:
        make_folder(self.folder)
        path = self.folder / f"{key}{BLOB}"
        draft = path.with_suffix(DRAFT)
        while True:
            with self._locked(draft, wait) as file:
                if file is None:
                    return None
                mine = _same(draft, file)  # else another process has made it, or given up
                try:
                    found = self._stands(key)
                    if found is not None:
                        return found
                    if mine:
                        writer = Writer(file, self, need, what)
                        writer.finish(make(writer))
                        with self.writing():
                            os.replace(draft, path)
                        found = self._stands(key)
                        if found is not None:
                            return found
                finally:
                    if mine and _same(draft, file):
                        draft.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, draft: Path, wait: bool) -> Iterator[BinaryIO | None]:
        """The draft, open and locked until then; None where another process has it and this one is not to wait."""
        with self.writing():
            file = os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", 2**20)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                wait = True
            yield file if wait else None
        finally:
            with suppress(OSError):  # what a full disk did not take, which was said
                file.close()

    def _standing(self) -> list[tuple[float, int, Path]]:
        """(time of the last use, bytes, file) of each copy, the least recently used first; drafts count with what they will take."""
        found = []
        for path in (*self.folder.glob(f"*{BLOB}"), *self.folder.glob(f"*{DRAFT}")):
            with suppress(FileNotFoundError):
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path))
        return sorted(found)

    def room(self, draft: BinaryIO, need: int, what: str) -> int:
        """Reserve room for a draft, by taking away the copies that were used least recently. Raises UserError where that does not suffice."""
        with self.writing(), open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._forget()
            own = os.fstat(draft.fileno())
            standing = [each for each in self._standing() if not _same(each[2], draft)]
            limit, free = self.limit(), shutil.disk_usage(self.folder).free
            used = sum(size for _, size, _ in standing)
            missing = need - own.st_blocks * 512 - free
            for _, size, path in standing:
                if used + need <= limit and missing <= 0:
                    break
                if path.suffix == BLOB or _abandoned(path):
                    path.unlink(missing_ok=True)
                    used, missing = used - size, missing - size
            if used + need > limit and self.disk_gb:
                raise UserError(
                    f"data.disk_gb: got {self.disk_gb:g}, and {what} takes {need / 1e9:.3g} GB; give as much as a window of shards takes, "
                    "or raise data.memory_gb so that the decoded images are held instead"
                )
            if used + need > limit or missing > 0:
                raise UserError(
                    f"data.scratch: {self.folder} has {free / 1e9:.3g} GB free, and {what} takes {need / 1e9:.3g} GB there; "
                    "name a folder on a larger disk, or raise data.memory_gb so that the decoded images are held instead"
                )
            draft.truncate(need)
        return need

    def _forget(self) -> None:
        for old in (path for kind in (BLOB, DRAFT, INDEX, ".arrow", ".arrow.lock") for path in self.folder.glob(f"*{kind}")):
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > FORGET:
                    old.unlink()


def _same(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _abandoned(draft: Path) -> bool:
    """Whether nobody writes it any longer."""
    with suppress(OSError), open(draft, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False
