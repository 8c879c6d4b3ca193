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
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from .folder import Storage

PATTERN = re.compile(r"step-(\d{9})\.pt")
BEST = "best.pt"
MARK = b"contray blake2b "
SEAL = len(MARK) + 64  # bytes of the comment: the mark and 32 bytes in hexadecimal


def newest_step(folder: Storage) -> int:
    """The step of the newest checkpoint, whole or not; 0 without one."""
    return max((int(found[1]) for name in folder.names() if (found := PATTERN.fullmatch(name))), default=0)


def dump(state: Mapping[str, Any]) -> memoryview:
    """A checkpoint's bytes. The last two of what torch.save writes are the length of the archive's comment, which is then empty."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(-2, os.SEEK_END)
    buffer.write(SEAL.to_bytes(2, "little"))
    buffer.write(MARK + digest_of(buffer.getbuffer()).encode())
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
    if seal and seal != digest_of(memoryview(content)[:-SEAL]):
        raise UserError(f"{where}: it is damaged, its digest differs")
    if not seal:
        check_records(io.BytesIO(content), where)
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


def digest_of(content: memoryview) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def check_records(content: Path | io.BytesIO, where: str) -> None:
    """Raises UserError where what lies in an archive of torch's does not fit its checksums: torch itself does not look."""
    try:
        with zipfile.ZipFile(content) as archive:
            records = [each for each in archive.infolist() if each.file_size]
            odd = sum(not _fits(archive, each) for each in records)
            whole = not archive.comment and (not odd or 1 < odd == len(records))  # all: whoever saved it had torch leave them out
    except Exception:  # of a damaged archive zipfile raises anything, NotImplementedError and struct.error among others
        raise UserError(f"{where}: it is torn or no checkpoint") from None
    if not whole:
        raise UserError(f"{where}: it is damaged, its contents do not fit their checksums")


def _fits(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    """Whether a record has the checksum that the archive says."""
    try:
        with archive.open(record) as stream:
            while stream.read(1 << 20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


@dataclass(frozen=True)
class Found:
    """A whole checkpoint: its file, the digest of that, and what it holds."""

    name: str
    digest: str
    state: dict[str, Any]


def read(folder: Storage, name: str) -> Found:
    """One checkpoint. Raises UserError where it is not whole, FileNotFoundError where it is not there."""
    content = folder.read(name)
    return Found(name, seal_of(content) or digest_of(memoryview(content)), load(content, f"{folder.address}/{name}"))


def newest(folder: Storage, damaged: Callable[[str], object] = lambda words: warnings.warn(words, stacklevel=3)) -> Found | None:
    """The newest whole checkpoint in a run's folder; None where there is none at all. Raises UserError where none is whole.

    damaged: told of a newer one that could not be read; by default that is a warning.
    """
    names, problems = [name for name in folder.names() if PATTERN.fullmatch(name)], []
    for name in reversed(names):
        try:
            found = read(folder, name)
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            damaged(f"{problem}; the checkpoint before it is used, {name}")
        return found
    if problems:
        mend = "the run does not begin anew over them. Put a whole one back, or remove them to begin at step 0"
        if folder.key != "scale.storage":  # nobody is to train
            mend = (
                f"{BEST} beside them may be: give {folder.address}/{BEST}" if BEST in folder.names() else "put a whole one back"
            )
        raise UserError(
            f"{folder.key}: none of the checkpoints in {folder.address} is whole ({'; '.join(problems)[:500]}); {mend}"
        )
    return None


def latest(folder: Storage) -> dict[str, Any] | None:
    """The state that `newest` finds."""
    found = newest(folder)
    return found.state if found else None
