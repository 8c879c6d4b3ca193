"""Checkpoints that are right or refused, on a local path, NFS or an object store.

A checkpoint is one file: what torch.save writes, a ZIP archive, with a digest of all of it in the archive's comment, so torch.load reads it too. It is written
under another name, fsynced and renamed, so a reader never meets half of one; should it be damaged all the same (a disk that lied), its
digest tells: it is passed over with a warning and the one before it is used. Nothing in it is pickled code: it loads with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import OnAllRanks, UserError
from ..logins import bare, full, scrubbed

PATTERN = re.compile(r"step-(\d{9})\.pt")
BEST = "best.pt"
MARK = b"contray blake2b "
SEAL = len(MARK) + 64  # bytes of the comment: the mark and 32 bytes in hexadecimal
LATE = 10.0  # seconds that training waits for a write under way, and after which a write is said to hang
LAST = 60.0  # seconds that the last checkpoint has at least, where scale.max_unsaved_minutes is over by then


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
        draft = target.with_name(
            f".{name}.{secrets.token_hex(8)}.draft"
        )  # two containers may share a folder and a process number
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

    def clear_drafts(self, *names: str) -> None:
        """Remove what killed writers left of these files (none named: of all), on a path; only who alone may write them asks for it."""
        if not self.local:
            return
        for draft in [found for found in self.names() if found.startswith(".") and found.endswith(".draft")]:
            if not names or any(draft.startswith(f".{name}") for name in names):
                (Path(self.root) / draft).unlink(missing_ok=True)


# How trouble with a checkpoint says what is safe
NONE_YET, NEWEST = "there is no checkpoint yet", "the newest checkpoint is of step"


def newest_step(folder: Storage) -> int:
    """The step of the newest checkpoint, whole or not; 0 without one."""
    return max((int(found[1]) for name in folder.names() if (found := PATTERN.fullmatch(name))), default=0)


class Unsaved(OnAllRanks):
    """No checkpoint could be written for longer than scale.max_unsaved_minutes."""


def dump(state: Mapping[str, Any]) -> memoryview:
    """A checkpoint's bytes. The last two of what torch.save writes are the length of the archive's comment, which is then empty."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(-2, os.SEEK_END)
    buffer.write(SEAL.to_bytes(2, "little"))
    buffer.write(MARK + _digest(buffer.getbuffer()).encode())
    return buffer.getbuffer()


def seal_of(content: bytes | memoryview) -> str:
    """The digest that a checkpoint carries, in hexadecimal; empty for one that carries none."""
    mark, digest = bytes(content[-SEAL:-64]), bytes(content[-64:])
    return digest.decode("ascii", "replace") if mark == MARK else ""


def load(content: bytes, where: str, device: str = "cpu") -> dict[str, Any]:
    """A checkpoint's state. Raises UserError when it is damaged, torn, no checkpoint, or holds pickled objects.

    One without a digest (of an earlier version) is held against the CRC-32 of each of its records instead.
    """
    seal = seal_of(content)
    if seal and seal != _digest(memoryview(content)[:-SEAL]):
        raise UserError(f"{where}: it is damaged, its digest differs")
    if not seal:
        _check_records(content, where)
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


def _digest(content: memoryview) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def _check_records(content: bytes, where: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            whole = not archive.comment and archive.testzip() is None
    except Exception:  # of a damaged archive zipfile raises anything, NotImplementedError and struct.error among others
        raise UserError(f"{where}: it is torn or no checkpoint") from None
    if not whole:
        raise UserError(f"{where}: it is damaged, its contents do not fit their checksums")


@dataclass(frozen=True)
class Found:
    """A whole checkpoint: its file, the digest of that, and what it holds."""

    name: str
    digest: str
    state: dict[str, Any]


@dataclass(frozen=True)
class _Job:
    step: int
    state: dict[str, Any]
    best: bool


class Checkpoints:
    """The checkpoints of one run: written in a thread, the newest `keep` and the best kept.

    durable(step) is called when a checkpoint is safe, trouble("checkpoint", words) when one is not, and with no words when the next one
    is again; both from the writing thread. trouble("damage", words) tells of one that could not be read. A write that hangs holds up
    neither training nor its end: see `overdue`, for which `minutes` is scale.max_unsaved_minutes. warns: a write that fails warns as well, for
    where `trouble` reaches nobody who watches.
    """

    def __init__(
        self,
        storage: Storage,
        keep: int = 2,
        durable: Callable[[int], None] = lambda step: None,
        trouble: Callable[[str, str], None] | None = None,
        minutes: float = 0.0,
        warns: bool = True,
    ) -> None:
        self.storage, self.keep, self.durable, self.limit, self.warns = storage, keep, durable, 60 * minutes, warns
        self.trouble = trouble or _warn
        self._lock, self._waiting = threading.Lock(), []
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None
        self._began = 0.0  # of the write under way
        self._wanted: float | None = None  # since when a checkpoint is wanted that is not durable
        self._step, self._at = 0, time.monotonic()  # of the newest durable one
        self._told = False

    # ---------------------------------------------------------------- reading

    def latest(self) -> dict[str, Any] | None:
        """The state of the newest whole checkpoint; None where there is no checkpoint at all. Raises UserError where none is whole."""
        found = self.newest()
        return found.state if found else None

    def newest(self) -> Found | None:
        """As `latest`, with the file's name and digest."""
        names, problems = [name for name in self.storage.names() if PATTERN.fullmatch(name)], []
        for name in reversed(names):
            try:
                found = self.read(name)
            except UserError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                self.trouble("damage", f"{problem}; the checkpoint before it is used, {name}")
            self._step = found.state.get("step", 0)
            return found
        if problems:
            raise UserError(
                f"scale.storage: none of the checkpoints in {self.storage.address} is whole ({'; '.join(problems)[:500]}); the run does not begin "
                "anew over them. Put a whole one back, or remove them to begin at step 0"
            )
        return None

    def read(self, name: str) -> Found:
        """One checkpoint. Raises UserError where it is not whole, FileNotFoundError where it is not there."""
        content = self.storage.read(name)
        return Found(name, seal_of(content) or _digest(memoryview(content)), load(content, f"{self.storage.address}/{name}"))

    # ---------------------------------------------------------------- writing

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        writer = self._writer
        return writer is not None and writer.is_alive()

    def save(self, step: int, state: Mapping[str, Any], best: bool = False, wait: bool = False) -> None:
        """Write `state` of `step` in a thread. The tensors are copied first, so training may go on; one write at a time.

        A write that fails is told and tried again with the next checkpoint; with `wait` (the last one) it raises UserError, as it does
        at once where no further try could help. Where a write hangs the newest state waits for it, and the newest best one.
        """
        if isinstance(self._error, UserError):
            raise self._error
        if self.busy:
            self._join(max(0.0, self._began + LATE - time.monotonic()))
        job = _Job(step, _snapshot(state), best)
        with self._lock:
            self._wanted = time.monotonic() if self._wanted is None else self._wanted
            if self.busy:
                self._waiting = [*[other for other in self._waiting if other.best][-1:], job]
            else:
                self._error, self._began = None, time.monotonic()
                self._writer = threading.Thread(target=self._write_all, args=(job,), name="checkpoint", daemon=True)
                self._writer.start()
        if not wait:
            return
        self.join()
        if isinstance(self._error, UserError):
            raise self._error
        if self.busy or self._error:
            why = "the write hangs" if self.busy else str(self._error)
            raise Unsaved(
                f"scale.storage: the checkpoint of step {step} could not be written to {self.storage.address} ({why}); mend that"
            ) from self._error

    def overdue(self) -> UserError | None:
        """What should end the run: an error that no further try mends, or Unsaved. To be asked often; it tells of a write that hangs."""
        if isinstance(self._error, UserError):
            return self._error
        late = self.busy and time.monotonic() - self._began > LATE
        if late and not self._told:
            self._tell(
                f"a checkpoint is being written to {self.storage.address} for {time.monotonic() - self._began:.0f} s; {self._since()}"
            )
        if not self.limit or self._wanted is None or time.monotonic() - self._wanted < self.limit:
            return None
        why = str(self._error) if self._error else "the write hangs"
        return Unsaved(
            f"scale.max_unsaved_minutes: for {self.limit / 60:g} min no checkpoint could be written to {self.storage.address} ({why}); {self._since()}; the "
            "run stops"
        )

    def join(self) -> None:
        """Wait for the writes under way: as long as scale.max_unsaved_minutes allows, or LAST seconds more where that is over."""
        if self.limit:
            left = self.limit - (time.monotonic() - self._wanted) if self._wanted is not None else 0.0
            self._join(max(left, min(self.limit, LAST)))
        else:
            self._join(None)

    def _join(self, seconds: float | None) -> None:
        writer = self._writer
        if writer is not None:
            writer.join(seconds)

    def _write_all(self, job: _Job) -> None:
        while True:
            self._write(job)
            with self._lock:
                if not self._waiting:
                    self._writer = None  # within the lock: who saves now starts another thread
                    return
                job, self._began = self._waiting.pop(0), time.monotonic()

    def _write(self, job: _Job) -> None:
        name = f"step-{job.step:09d}.pt"
        try:
            content = dump(job.state)
            self.storage.write(name, content)
            if job.best:
                self.storage.write(BEST, content)
            self._error = None
            self._step, self._at = job.step, time.monotonic()
            with self._lock:
                self._wanted = time.monotonic() if self._waiting else None
            self.durable(job.step)
            if self._told:
                self.trouble("checkpoint", "")
                self._told = False
            self._remove_others(name)
        except UserError as error:
            self._error = error
        except Exception as error:
            self._error = error
            words = f"the checkpoint of step {job.step} could not be written to {self.storage.address}: {error}"
            self._tell(f"{words}; {self._since()}")
            if self.warns:
                warnings.warn(words, stacklevel=1)

    def _remove_others(self, name: str) -> None:
        """All but the newest `keep` up to this one: later ones are damaged, or of a state that the run went back from."""
        steps = [found for found in self.storage.names() if PATTERN.fullmatch(found)]
        for other in [*[found for found in steps if found <= name][: -self.keep], *[found for found in steps if found > name]]:
            self.storage.remove(other)

    def _tell(self, words: str) -> None:
        self._told = True
        self.trouble("checkpoint", words)

    def _since(self) -> str:
        if not self._step:
            return NONE_YET
        return f"{NEWEST} {self._step}, {(time.monotonic() - self._at) / 60:.1f} min ago"


def _warn(what: str, words: str) -> None:
    if what == "damage":  # a write that fails warns in any case
        warnings.warn(words, stacklevel=3)


def _snapshot(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_snapshot(item) for item in value)
    return value
