"""Checkpoints that are whole or absent, on a local path, NFS or an object store.

A checkpoint is one file. It is written under another name, fsynced and renamed, so a reader never meets half of one; should a file be
torn all the same (a disk that lied), it is passed over with a warning and the one before it is used. Nothing in it is pickled code:
it loads with `weights_only=True`.
"""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..logins import bare, full, scrubbed

PATTERN = re.compile(r"step-(\d{9})\.pt")
BEST = "best.pt"


class Storage:
    """A folder: local, or any file system that pyarrow knows by its address (s3://, gs://, hdfs://)."""

    token = ""  # whose lease allows to write here; empty: nobody asks
    lease = ""  # the folder that the lease lies in; empty: this one

    def __init__(self, address: str) -> None:
        from pyarrow import ArrowInvalid, fs

        self.local = "://" not in address
        self.address = (  # absolute: workers run in another folder; of an address what folders in it can be named by
            str(Path(address).expanduser().resolve()) if self.local else bare(address).partition("?")[0]
        )
        try:
            self.system, self.root = (
                (fs.LocalFileSystem(), self.address) if self.local else fs.FileSystem.from_uri(full(self.address))
            )
        except ArrowInvalid as error:
            raise UserError(
                f"scale.storage: got {bare(address)}; give a path, or an address such as s3://bucket/runs ({scrubbed(str(error))})"
            ) from None

    def __truediv__(self, name: str) -> Storage:
        return Storage(f"{self.address.rstrip('/')}/{name}")

    def create(self) -> None:
        """Make the folder. Raises UserError when it cannot be written."""
        try:
            self.system.create_dir(self.root, recursive=True)
        except OSError as error:
            raise UserError(
                f"scale.storage: cannot write to {self.address} ({error}); choose another with --scale.storage"
            ) from None

    def names(self) -> list[str]:
        """The files in this folder; none if there is no such folder."""
        from pyarrow import fs

        return sorted(info.base_name for info in self.system.get_file_info(fs.FileSelector(self.root, allow_not_found=True)))

    def folders(self) -> list[str]:
        """The folders in this folder; none if there is no such folder."""
        from pyarrow import fs

        found = self.system.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
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
        draft = target.with_name(f".{name}.{os.getpid()}.draft")
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
            folder = os.open(self.root, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        self.system.delete_file(f"{self.root}/{name}")


def load(content: bytes, where: str, device: str = "cpu") -> dict[str, Any]:
    """A checkpoint's state. Raises UserError when it is torn, no checkpoint, or holds pickled objects."""
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:
        reason = (
            "it holds pickled objects, which are never loaded"
            if "Weights only load failed" in str(error)
            else "it is torn or no checkpoint"
        )
        raise UserError(f"{where}: {reason}") from None
    if not isinstance(state, dict) or "method" not in state or "config" not in state:
        raise UserError(f"{where}: no checkpoint of contray (it lacks the method's state or the config)")
    return state


class Checkpoints:
    """The checkpoints of one run: written in a thread, the newest `keep` and the best kept."""

    def __init__(self, storage: Storage, keep: int = 2, durable: Callable[[int], None] = lambda step: None) -> None:
        self.storage, self.keep, self.durable = storage, keep, durable
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None

    def latest(self) -> dict[str, Any] | None:
        """The newest whole checkpoint, or None."""
        for name in reversed([name for name in self.storage.names() if PATTERN.fullmatch(name)]):
            try:
                return load(self.storage.read(name), f"{self.storage.address}/{name}")
            except UserError as error:
                warnings.warn(f"{error}; the checkpoint before it is used", stacklevel=2)
        return None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writer is not None and self._writer.is_alive()

    def save(self, step: int, state: Mapping[str, Any], best: bool = False, wait: bool = False) -> None:
        """Write `state` of `step` in a thread. The tensors are copied first, so training may go on; one write at a time.

        A write that fails warns and is tried again with the next checkpoint; with `wait` (the last one) it raises UserError, as it does
        at once where no further try could help.
        """
        self.join()
        if isinstance(self._error, UserError):
            raise self._error
        copied = _snapshot(state)
        self._error = None
        self._writer = threading.Thread(target=self._write, args=(step, copied, best), name="checkpoint")
        self._writer.start()
        if wait:
            self.join()
            if isinstance(self._error, OSError):
                raise UserError(
                    f"scale.storage: the checkpoint of step {step} could not be written to {self.storage.address} ({self._error}). "
                    "Mend that, and the same command goes on from the checkpoint before it"
                ) from self._error
            if self._error:
                raise self._error

    def join(self) -> None:
        """Wait for the write under way."""
        if self._writer is not None:
            self._writer.join()

    def _write(self, step: int, state: dict[str, Any], best: bool) -> None:
        try:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            self.storage.write(f"step-{step:09d}.pt", buffer.getbuffer())
            if best:
                self.storage.write(BEST, buffer.getbuffer())
            self.durable(step)
            steps = [name for name in self.storage.names() if PATTERN.fullmatch(name)]
            for name in steps[: -self.keep]:
                self.storage.remove(name)
        except UserError as error:
            self._error = error
        except Exception as error:
            self._error = error
            warnings.warn(f"the checkpoint of step {step} could not be written to {self.storage.address}: {error}", stacklevel=1)


def _snapshot(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_snapshot(item) for item in value)
    return value
