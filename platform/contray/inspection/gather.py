"""Read every image once, in as many processes as there are cores: each writes what it measured into an array that all share."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import data
from ..data.splits import BrokenImage, EncodedSplit, Split
from ..errors import UserError
from .records import BROKEN, CUT_OFF, READ, dtype, measure_file, measure_pixels

CHUNK = 32  # images that a process takes at a time, in order: what is read in blocks is read in order
LOOK = 0.1  # seconds between two looks at the processes
Show = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Looked:
    """What was read of one split. ids: (n,) the samples; records: (n,) of `records.dtype`; broken: place among the ids -> reason."""

    name: str
    split: Split
    ids: np.ndarray
    records: np.ndarray
    broken: Mapping[int, str]

    @property
    def read(self) -> np.ndarray:
        """(n,) bool: those that could be decoded."""
        return self.records["state"] == READ

    @property
    def labels(self) -> np.ndarray | None:
        """(n,) or None."""
        return None if self.split.labels is None else self.split.labels[self.ids]

    def key(self, place: int) -> str:
        """The split's name for an image."""
        return self.split.key(int(self.ids[place]))

    def where(self, place: int) -> str:
        """The file or row, with the split's name before what has no path."""
        return self.split.describe(int(self.ids[place]))

    def image(self, place: int) -> np.ndarray | None:
        """(H, W, C) uint8, or None where it is broken."""
        try:
            return self.split.image(int(self.ids[place]), None)
        except BrokenImage:
            return None


def gather(
    source: data.Source, sample: int, seed: int, processes: int, scratch: str, show: Show
) -> tuple[np.ndarray, list[Looked]]:
    """All images of the training and the test split, or `sample` of each drawn by the seed: all records, and their parts by split.

    Raises UserError for a disk without room, for what cannot be read for now, and for a file at which a decoder ends its process.
    """
    splits = {"train": source.train, **({} if source.test is None else {"test": source.test})}
    chosen = {name: drawn(len(split), sample, seed) for name, split in splits.items()}
    starts = np.cumsum([0, *map(len, chosen.values())])
    records = shared(int(starts[-1]), channels_of(source.train), scratch)
    places = [(name, i) for name, ids in chosen.items() for i in range(0, len(ids), CHUNK)]
    heard = {name: _overheard(split) for name, split in splits.items()}
    begins = dict(zip(chosen, starts.tolist(), strict=False))

    def measure_chunk(chunk: int, at: Any, told: Any) -> None:
        name, first = places[chunk]
        splits[name].expect(chosen[name][first : first + CHUNK].tolist())
        for place in range(first, min(first + CHUNK, len(chosen[name]))):
            at.value = begins[name] + place
            if reason := _measure(*heard[name], int(chosen[name][place]), records[begins[name] + place]):
                told.put((begins[name] + place, reason))

    def where(place: int) -> str:
        at = int(np.searchsorted(starts, place, side="right")) - 1
        name = list(chosen)[at]
        return splits[name].describe(int(chosen[name][place - starts[at]]))

    for split in splits.values():  # what the whole set tells is found once, before there are processes
        if isinstance(split, EncodedSplit):
            split.depth("image")
    broken = _run(measure_chunk, len(places), records, processes, where, show)
    return records, [
        Looked(
            name, splits[name], ids, records[begin : begin + len(ids)],
            {place - begin: reason for place, reason in sorted(broken.items()) if begin <= place < begin + len(ids)},
        )
        for (name, ids), begin in zip(chosen.items(), starts.tolist(), strict=False)
    ]  # fmt: skip


def drawn(count: int, sample: int, seed: int) -> np.ndarray:
    """(n,) ascending ids: all, or `sample` of them without repetition."""
    if not sample or sample >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, sample, replace=False))


def channels_of(split: Split) -> int:
    """Of the first images that can be decoded; 3 where none of them can."""
    for i in range(min(len(split), 16)):
        try:
            image = split.image(i, None)
        except BrokenImage:
            continue
        return image.shape[2] if image.ndim == 3 else 1
    return 3


def shared(count: int, channels: int, scratch: str) -> np.ndarray:
    """(count,) zeroed records in a file without a name, which forked processes write and the system pages out."""
    kind = dtype(channels)
    size = max(count, 1) * kind.itemsize
    place = os.path.expanduser(scratch) or None
    try:
        if place:
            os.makedirs(place, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            if hasattr(os, "posix_fallocate"):  # a hole that finds no room when it is written would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, kind, "r+", shape=(count,))
    except OSError as error:
        raise UserError(
            f"data.scratch: {place or tempfile.gettempdir()} has no room for {size / 1e6:.0f} MB ({error.strerror}); name another folder, or give --sample"
        ) from None


def _overheard(split: Split) -> tuple[Split, list[bytes | memoryview | None]]:
    """(a copy of the split, the encoded bytes that it read last)."""
    last: list[bytes | memoryview | None] = []
    if not isinstance(split, EncodedSplit):
        return split, last
    read, copied = split.encoded.read, copy.copy(split)

    def noted(i: int) -> bytes | memoryview | None:
        last[:] = [read(i)]
        return last[0]

    copied.encoded = dataclasses.replace(split.encoded, read=noted)
    return copied, last


def _measure(split: Split, last: list[bytes | memoryview | None], i: int, record: Any) -> str:
    """Why the image is broken; empty: it is not."""
    last.clear()
    try:
        image, reason = split.image(i, None), ""
    except BrokenImage as broken:
        image, reason = None, broken.reason
    if last and last[0]:
        measure_file(record, last[0], split.key(i))
    if image is not None:
        measure_pixels(record, image)
        return ""
    record["state"] = BROKEN
    return reason + ("; it ends before its picture does" if record["flags"] & CUT_OFF else "")


def _run(
    work: Callable[[int, Any, Any], None],
    chunks: int,
    records: np.ndarray,
    processes: int,
    where: Callable[[int], str],
    show: Show,
) -> dict[int, str]:
    """Let forked processes do all chunks; gives reasons by place. However it ends, none of them is left."""
    context = multiprocessing.get_context("fork")
    following, told = context.Value("q", 0), context.SimpleQueue()
    parent, broken, errors = os.getpid(), dict[int, str](), list[str]()

    def worker(at: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print of broken files is told once, with their names
        try:
            while os.getppid() == parent:
                with following.get_lock():
                    chunk = following.value
                    following.value += 1
                if chunk >= chunks:
                    return
                work(chunk, at, told)
        except (UserError, OSError) as error:
            told.put((-1, f"{'' if isinstance(error, UserError) else f'data.source: {where(at.value)}: '}{error}"))
        except BaseException:
            told.put((-2, traceback.format_exc()))

    def hear() -> None:
        while not told.empty():
            place, words = told.get()
            if place == -2:
                raise RuntimeError(words)
            if place == -1:
                errors.append(words)
            else:
                broken[place] = sys.intern(words)

    ats = [context.Value("q", 0, lock=False) for _ in range(max(1, min(processes, chunks)))]
    team = [context.Process(target=worker, args=(at,), daemon=True) for at in ats]
    try:
        for each in team:
            each.start()
        while any(each.is_alive() for each in team) and not errors:
            hear()
            _check(team, ats, where)
            show({"step": min(following.value, chunks) * CHUNK, "total": len(records), "unit": "image", "phase": "reading"})
            time.sleep(LOOK)
        hear()
        _check(team, ats, where)
        if errors:
            raise UserError(errors[0])
    finally:
        for each in team:
            if each.is_alive():
                each.terminate()
        for each in team:
            if each.pid is not None:
                each.join()
        told.close()
    return broken


def _check(team: Sequence[Any], ats: Sequence[Any], where: Callable[[int], str]) -> None:
    """Raises UserError where a process was ended from outside, or by the decoder."""
    for each, at in zip(team, ats, strict=True):
        if each.exitcode:
            name = signal.Signals(-each.exitcode).name if each.exitcode < 0 else f"status {each.exitcode}"
            why = (
                "the system was out of memory (OMP_NUM_THREADS=1 reads in one process), or somebody ended it"
                if name == "SIGKILL"
                else "the decoder ended with it; move the file away"
            )
            raise UserError(f"data.source: the process that was at {where(at.value)} is gone ({name}): {why}")
