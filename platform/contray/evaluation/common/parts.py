"""Features as they come, part by part: gathered, kept on disk for an interrupted call to go on from, and put together in memory or in a mapped file.

Legend of shapes: n images that could be read, D features.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config import RunConfig
from ...data.scratch import scratch_of
from ...errors import UserError
from ...storage.folder import Storage


def in_memory(config: RunConfig, nbytes: float) -> bool:
    """Whether so much may be held in memory: data.memory_gb. What an evaluation holds besides asks here alone."""
    return nbytes < config.data.memory_gb * 2**30


@dataclass(frozen=True)
class Rows:
    """Some images' features: xs, (n, D) float32 by each encoder (none where n is 0), ids (n,) int64, broken: {id: reason} of those that are left out."""

    xs: list[Tensor]
    ids: Tensor
    broken: Mapping[int, str]

    @classmethod
    def joined(cls, batches: Sequence[Rows]) -> Rows:
        """One after the other."""
        xs = [torch.cat(each) for each in zip(*(rows.xs for rows in batches if rows.xs), strict=True)]
        ids = torch.cat([rows.ids for rows in batches]) if batches else torch.empty(0, dtype=torch.int64)
        return cls(xs, ids, {i: reason for rows in batches for i, reason in rows.broken.items()})

    def facts(self) -> tuple[list[tuple[int, ...]], Tensor, Mapping[int, str]]:
        """All but the features, of which their shapes."""
        return [tuple(x.shape) for x in self.xs], self.ids, self.broken

    @classmethod
    def like(cls, facts: tuple[list[tuple[int, ...]], Tensor, Mapping[int, str]]) -> Rows:
        """Rows of these facts, into which features are to be received."""
        shapes, ids, broken = facts
        return cls([torch.empty(shape) for shape in shapes], ids, broken)


class Whole:
    """Features of at most `most` images by so many encoders, put together: in memory where they fit (`in_memory`), else in files that nobody sees."""

    def __init__(self, config: RunConfig, most: int, encoders: int) -> None:
        self.config, self.most, self.encoders = config, most, encoders
        self.xs: list[Tensor] = []
        self.ids = torch.empty(most, dtype=torch.int64)
        self.rows = 0

    def add(self, rows: Rows) -> None:
        end = self.rows + len(rows.ids)
        if rows.xs and not self.xs:
            widths = [x.shape[1] for x in rows.xs]
            fits = in_memory(self.config, self.most * sum(widths) * 4)
            self.xs = [torch.empty(self.most, width) if fits else mapped(self.config, self.most, width) for width in widths]
        for x, part in zip(self.xs, rows.xs, strict=False):  # a part may have no row
            x[self.rows : end] = part
        self.ids[self.rows : end] = rows.ids
        self.rows = end

    def done(self) -> tuple[list[Tensor], Tensor]:
        """(n, D) of each encoder, (n,) ids."""
        xs = self.xs or [torch.empty(0, 0) for _ in range(self.encoders)]
        return [x[: self.rows] for x in xs], self.ids[: self.rows]


def mapped(config: RunConfig, rows: int, width: int) -> Tensor:
    """(rows, width) float32 in a file under data.scratch that nobody sees and that is gone when nobody maps it any longer."""
    if config.data.scratch:
        Path(config.data.scratch).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=config.data.scratch or None) as file:
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(rows, width)))


# ---------------------------------------------------------------- kept on disk


@dataclass
class Folder:
    """Parts of one set's features, each a file that is whole, by its digest, or counts as absent. Where the disk fails, nothing is kept: it is said."""

    path: Path
    fails: bool = False

    def there(self) -> Iterator[int]:
        """The numbers of the parts that stand here."""
        for file in sorted(self.path.glob("part-*.safetensors")):
            number = int(file.stem.removeprefix("part-"))
            if self.read(number) is not None:
                yield number

    def read(self, number: int) -> Rows | None:
        """A part; None where it is not there or is damaged."""
        from safetensors.torch import load

        try:
            content = self._file(number).read_bytes()
        except OSError:
            return None
        seal, body = content[:16], content[16:]
        if seal != _seal(body):
            return None
        held = load(body)
        broken = json.loads(bytes(held["broken"].tolist()))
        return Rows([held[f"x{i}"] for i in range(len(held) - 2)], held["ids"], {int(i): reason for i, reason in broken.items()})

    def write(self, number: int, rows: Rows) -> None:
        from safetensors.torch import save

        if self.fails:
            return
        broken = torch.tensor(list(json.dumps(rows.broken).encode()), dtype=torch.uint8)
        body = save({**{f"x{i}": x.contiguous() for i, x in enumerate(rows.xs)}, "ids": rows.ids.contiguous(), "broken": broken})
        try:
            disk = shutil.disk_usage(self.path)
            if disk.free - len(body) < disk.total / 20:
                raise OSError(f"{disk.free / 1e9:.3g} GB are free, and a twentieth of the disk is left to others")
            Storage(str(self.path)).write(self._file(number).name, _seal(body) + body)
        except OSError as error:
            self.fails = True
            print(
                f"contray: data.scratch: features are no longer kept in {self.path} ({error}); the evaluation goes on",
                file=sys.stderr,
            )

    def _file(self, number: int) -> Path:
        return self.path / f"part-{number:06d}.safetensors"


@dataclass
class Kept:
    """Features of large sets, kept in a folder each under data.scratch until the evaluation has ended."""

    FROM = 50_000  # images from which a set's features are kept
    FORGET = 14 * 86400  # seconds after which what nobody went on with is removed

    scratch: str
    folders: dict[str, Folder] = field(default_factory=dict)
    locks: list[Any] = field(default_factory=list)

    def folder(self, key: str) -> Folder | None:
        """Where the parts of the features of this key lie; None where another process works on the same, or nothing can be written there."""
        from filelock import FileLock, Timeout

        place = scratch_of(self.scratch) / "features"
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if place.stat().st_uid != os.getuid():
                raise UserError(f"data.scratch: {place} belongs to another user; name a folder of your own")
            self._tidy(place)
            path = place / key
            path.mkdir(exist_ok=True)
            if key not in self.folders:
                lock = FileLock(f"{path}.lock")
                lock.acquire(blocking=False)
                self.locks.append(lock)
                Storage(str(path)).clear_drafts()
                os.utime(path)
                self.folders[key] = Folder(path)
        except Timeout:
            return None
        except OSError as error:
            print(f"contray: data.scratch: features are not kept in {place} ({error}); the evaluation goes on", file=sys.stderr)
            return None
        return self.folders[key]

    def forget(self) -> None:
        """Remove what was kept: the evaluation has ended."""
        for folder in self.folders.values():
            shutil.rmtree(folder.path, ignore_errors=True)
        for lock in self.locks:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
        self.folders, self.locks = {}, []

    def _tidy(self, place: Path) -> None:
        for old in place.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > self.FORGET:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()


def _seal(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
