"""Where files lie: a local path, NFS or an object store, and how one of them is written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path
from typing import Any

from ..errors import UserError
from .logins import bare, full, scrubbed

# Of folders, on some file systems of networks and of FUSE
NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Storage:
    """A folder or file: local, or of any file system that pyarrow (s3://, gs://, hdfs://) or fsspec (hf://, http://) knows by its address."""

    token = ""  # whose lease allows to write here; empty: nobody asks
    lease = ""  # the folder that the lease lies in; empty: this one

    def __init__(self, address: str, key: str = "scale.storage") -> None:
        """key: what the address was given as, for messages. Raises UserError for an address that nobody knows."""
        from pyarrow import fs

        self.local, self.key = "://" not in address, key
        self.address = (  # absolute: workers run in another folder; of an address what folders in it can be named by
            str(Path(address).expanduser().resolve()) if self.local else bare(address).partition("?")[0]
        )
        self.system, self.root = (fs.LocalFileSystem(), self.address) if self.local else _opened(self.address, key)

    def __truediv__(self, name: str) -> Storage:
        return Storage(f"{self.address.rstrip('/')}/{name}", self.key)

    @property
    def name(self) -> str:
        """What the folder itself is called."""
        return self.address.rstrip("/").rpartition("/")[2]

    def create(self) -> None:
        """Make the folder. Raises UserError when it cannot be written."""
        try:
            self.system.create_dir(self.root, recursive=True)
        except OSError as error:
            raise UserError(f"{self.key}: cannot write to {self.address} ({error}); name another place") from None

    def names(self) -> list[str]:
        """The files in this folder; none if there is no such folder."""
        from pyarrow import fs

        return sorted(info.base_name for info in self.system.get_file_info(fs.FileSelector(self.root, allow_not_found=True)))

    def folders(self) -> list[str]:
        """The folders in this folder; none if there is no such folder, or a file in its place."""
        from pyarrow import fs

        try:
            found = self.system.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        except NotADirectoryError:  # which `create` refuses
            return []
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def read(self, name: str) -> bytes:
        if self.local:
            return (Path(self.root) / name).read_bytes()
        with self.system.open_input_file(f"{self.root}/{name}") as file:
            return file.read()

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write one file, whole or not at all. Object stores show an upload only once it is complete; local files are renamed into place."""
        if not self.local:
            with self.system.open_output_stream(f"{self.root}/{name}") as file:
                file.write(content)
            return
        target = Path(self.root) / name
        # two containers may share a folder and a process number
        draft = target.with_name(f".{name}.{secrets.token_hex(8)}.draft")
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
            folder = os.open(self.root, os.O_RDONLY)
            try:
                os.fsync(folder)
            except OSError as error:
                if error.errno not in NO_FSYNC:
                    raise
            finally:
                os.close(folder)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        self.system.delete_file(f"{self.root}/{name}")

    def clear(self) -> None:
        """Remove this folder with all that is in it, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.system.delete_dir(self.root)

    def clear_drafts(self, *names: str) -> None:
        """Remove what killed writers left of these files (none named: of all), on a path; only who alone may write them asks for it."""
        if not self.local:
            return
        for draft in [found for found in self.names() if found.startswith(".") and found.endswith(".draft")]:
            if not names or any(draft.startswith(f".{name}") for name in names):
                (Path(self.root) / draft).unlink(missing_ok=True)


def _opened(address: str, key: str) -> tuple[Any, str]:
    """(pyarrow's file system, the path on it) of an address: pyarrow's own, which outlives a fork and needs no further package, else fsspec's."""
    from pyarrow import ArrowInvalid, fs

    if re.fullmatch(r"(s3|gs|gcs)://(/.*)?", address):
        raise UserError(f"{key}: got {bare(address)}, which names no bucket; give an address such as s3://bucket/folder")
    try:
        return fs.FileSystem.from_uri(full(address))
    except ArrowInvalid as error:
        problem = error
    import fsspec

    try:
        found, root = fsspec.url_to_fs(full(address))
    except ImportError as error:  # names the package
        raise UserError(f"{key}: got {bare(address)}: {scrubbed(str(error))}") from None
    except ValueError:  # unknown to both
        raise UserError(
            f"{key}: got {bare(address)}; give a path, or an address such as s3://bucket/runs ({scrubbed(str(problem))})"
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(found)), root
