"""A file wherever it lies: a path of this machine, or a name on an object store that is asked for what a path is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..storage.folder import Storage
from .content import content_of
from .digests import digest

_TAIL = 65_536  # bytes at a remote file's end that its digest counts: the footer of Parquet


@dataclass(frozen=True)
class Remote:
    """A file or folder below the root of a storage that is not local. path: relative to it; empty: the root itself."""

    storage: Storage
    path: str = ""

    def __truediv__(self, name: str) -> Remote:
        return Remote(self.storage, f"{self.path}/{name}" if self.path else name)

    def __str__(self) -> str:
        return f"{self.storage.address.rstrip('/')}/{self.path}" if self.path else self.storage.address

    @property
    def name(self) -> str:
        return str(self).rpartition("/")[2]

    @property
    def place(self) -> str:
        """What the file system calls it."""
        return f"{self.storage.root.rstrip('/')}/{self.path}" if self.path else self.storage.root


File = Path | Remote


def opened(file: File) -> Any:
    """An open file for reading at random, to be closed. Raises OSError."""
    if isinstance(file, Remote):
        return file.storage.system.open_input_file(file.place)
    try:
        str(file).encode()
    except UnicodeEncodeError:  # which Arrow does not open
        return open(file, "rb")
    return pa.OSFile(str(file))  # from a file of Python's Arrow would read each page twice


def bytes_of(file: File) -> bytes:
    """Raises FileNotFoundError where it is gone, OSError where it cannot be read, perhaps for now."""
    if isinstance(file, Path):
        return file.read_bytes()
    with opened(file) as reader:
        return reader.read()


def size_of(file: File) -> int:
    """Raises OSError."""
    if isinstance(file, Path):
        return file.stat().st_size
    info = file.storage.system.get_file_info(file.place)
    if not info.is_file:
        raise FileNotFoundError(f"{file} is not there")
    return int(info.size)


def identity(file: File) -> str:
    """Changes when the file is replaced by another one; locally also where unpacking gave that the same size and time."""
    if isinstance(file, Path):
        facts = file.stat()
        return digest(os.fsencode(file.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    info = file.storage.system.get_file_info(file.place)
    return digest(str(file), info.size, info.mtime_ns)


def folder_of(file: File) -> Path:
    """The folder of a file as an absolute path, also where the store's own names have no slash before them."""
    return file.parent if isinstance(file, Path) else Path("/", file.place).parent


def absolute(file: File) -> str:
    """Its name as `folder_of` has folders'."""
    return os.path.abspath(file) if isinstance(file, Path) else os.path.join("/", file.place)


def content(files: Sequence[File]) -> str:
    """`content_of`; on an object store of the sizes and of the ends."""
    remote = [file for file in files if isinstance(file, Remote)]
    if not remote:
        return content_of([file for file in files if isinstance(file, Path)])
    found: list[object] = []
    for file in remote:
        with opened(file) as reader:
            size = int(reader.size())
            reader.seek(max(0, size - _TAIL))
            found += [size, digest(reader.read(_TAIL))]
    return digest(found)
