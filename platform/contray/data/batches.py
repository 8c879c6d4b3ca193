"""Global batches by step, and the processes that prepare them.

A rank loads its slots of a global batch; what a slot holds depends on (seed, step) alone, also where images are broken.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError, DataError, UserError
from ..methods._base import View
from .ahead import ReadAhead
from .order import Blocks, Full, tail
from .splits import BrokenImage, Split
from .views import Fetch, Pipeline, check_shapes

_AHEAD = 3  # batches that each loader process prepares ahead


class GlobalBatches:
    """The training batches of a run: step k of an epoch holds places k*B to (k+1)*B of its order, the tail is dropped.

    A broken image at place p of the order is replaced by the tail's element p mod (tail's length), or the next readable one
    after it; where there is no tail, or none of it is readable, by the first readable image of the order. So every rank
    finds the same replacement without asking the others. `broken` (id: reason) are known from earlier and not tried again.
    ids: only these samples; fixed: generated sources show each sample's own picture, the one that its label belongs to.
    window: shards that are mixed at a time, of a split that is read in shards (`data.shuffle blocks`); 0: an epoch is a permutation of all samples.

    Raises ConfigError where there are fewer images than a batch needs, or a view wants a column that the data lack.
    """

    def __init__(
        self,
        split: Split,
        views: Mapping[str, View],
        *,
        strength: float,
        batch_size: int,
        seed: int,
        broken: Mapping[int, str] | None = None,
        max_broken: float = 0.05,
        ids: np.ndarray | None = None,
        fixed: bool = False,
        window: int = 0,
    ) -> None:
        self.shards = split.shards() if window else None
        self.members = ids if ids is None or self.shards is None else np.sort(ids)
        self.count = len(split) if ids is None else len(ids)
        if self.count < batch_size:
            raise ConfigError(
                "train.batch_size", f"got {batch_size}, but there are {self.count} training images and every batch is full"
            )
        check_views(split, views)
        self.split, self.batch_size, self.seed, self.max_broken = split, batch_size, seed, max_broken
        self.views, self.pipeline, self.fixed = views, Pipeline(views, strength, split.channels), fixed
        self.broken = dict(broken or {})
        if self.shards is None:
            self.order = Full(seed, self.count)
        else:
            starts = self.shards.starts if self.members is None else self.shards.subset(self.members).starts
            self.order = Blocks(seed, starts, window)

    @property
    def steps_per_epoch(self) -> int:
        return self.count // self.batch_size

    def ids(self, step: int, slots: range | None = None) -> np.ndarray:
        """(B,) sample ids of a global batch, or of its slots, before broken images are replaced."""
        epoch, first = self.place(step)
        slots = range(self.batch_size) if slots is None else slots
        return self._samples(epoch, first + slots.start, first + slots.stop)

    def _samples(self, epoch: int, start: int, stop: int) -> np.ndarray:
        found = self.order.ids(epoch, start, stop)
        return found if self.members is None else self.members[found]

    def place(self, step: int) -> tuple[int, int]:
        """(epoch, place in it) where a step begins."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return epoch, place * self.batch_size

    def load(self, step: int, slots: range) -> dict[str, Any]:
        """The rows of `slots` of a global batch.

        views: {name: (b, H, W, 3) or (b, P, h, w, 3) uint8}, of a split with channels as many, and uint8 or float32 in [0, 1];
        index, slot: (b,) int64; broken: {id: reason} of images newly met.
        """
        epoch, first = self.place(step)
        known, ids = len(self.broken), self.ids(step, slots).tolist()
        self.split.expect([i for i in ids if i not in self.broken])
        rows = [self._row(epoch, first + slot, i) for slot, i in zip(slots, ids, strict=True)]
        return {
            "views": _stack([views for _, views in rows]),
            "index": torch.tensor([i for i, _ in rows], dtype=torch.int64),
            "slot": torch.arange(slots.start, slots.stop, dtype=torch.int64),
            "broken": dict(list(self.broken.items())[known:]),
        }

    def touch(self) -> None:
        """Reads one value of each further column that the views want, so that forked processes share what reading loads."""
        for column in {view.source for view in self.views.values()} - {"image"}:
            with suppress(BrokenImage):
                self.split.value(0, column, np.random.default_rng(0) if self.split.generated else None)

    def note(self, broken: Mapping[int, str]) -> None:
        """Remember broken images; raises DataError when they are too many."""
        self.broken.update(broken)
        self.check(self.broken)

    def check(self, broken: Mapping[int, str]) -> None:
        """Raises DataError when `broken` are more than `max_broken` of the split."""
        check_broken(self.split, broken, self.max_broken)

    def _row(self, epoch: int, place: int, own: int) -> tuple[int, dict[str, np.ndarray]]:
        for i in chain([own], self._others(epoch, place)):
            if i in self.broken:
                continue
            try:
                return i, self.pipeline(_fetch(self.split, i, self.fixed), (self.seed, epoch, i))
            except BrokenImage as error:
                self.note({i: error.reason})
        raise DataError(f"data.source: none of the {len(self.split)} images can be read")

    def _others(self, epoch: int, place: int) -> Iterator[int]:
        for other in tail(place, self.steps_per_epoch * self.batch_size, self.count):
            yield int(self._samples(epoch, other, other + 1)[0])


def check_broken(split: Split, broken: Mapping[int, str], max_broken: float, kind: str = "images") -> None:
    """Raises DataError when `broken` (id: reason) are more than `max_broken` of the split. One is allowed unless none is: a held-out tenth has few images."""
    if len(broken) > max(max_broken * len(split), max_broken > 0):
        some = "; ".join(f"{split.describe(i)}: {reason}" for i, reason in list(broken.items())[:3])
        count = f"{len(broken)} of {len(split)} {kind} are broken"
        raise DataError(f"data.source: {count}, more than data.max_broken {max_broken:g} allows ({some})")


class EvalImages:
    """The evaluation inputs of some samples: batch k holds ids k*batch_size to (k+1)*batch_size, {"views": {name: (b, H, W, 3) uint8}, "index": (b,) int64}.

    May be iterated again. Broken images are left out; once they were met, `ids` no longer holds them and `broken` has their reasons.
    augmented: (seed, number, strength) of a draw such as training makes (of generated sources a fresh picture); None: the fixed pixels.
    workers: forked processes that prepare the batches, where images are decoded for it; 0: this one.
    An iteration raises DataError at its end where more than `max_broken` of the split were broken, or all that were asked for.
    """

    def __init__(
        self,
        split: Split,
        eval_views: Mapping[str, View],
        ids: np.ndarray | Sequence[int],
        batch_size: int,
        augmented: tuple[int, int, float] | None = None,
        max_broken: float = 1.0,
        workers: int = 0,
    ) -> None:
        check_views(split, eval_views)
        self.max_broken, self.workers, self.broken = max_broken, workers, dict[int, str]()
        self.split, self.batch_size, self.asked = split, batch_size, np.asarray(ids, np.int64)
        seed, number, strength = augmented or (0, 0, 0.0)
        self.draw = (seed, number)
        self.fixed = augmented is None
        self.views, self.pipeline = eval_views, Pipeline(eval_views, strength, split.channels)

    def __len__(self) -> int:
        """How many batches there are, with those of which no image can be read."""
        return -(-len(self.asked) // self.batch_size)

    @property
    def ids(self) -> np.ndarray:
        """Those that were asked for, without the broken ones that were met."""
        return self.asked[~np.isin(self.asked, list(self.broken))]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.split.prepare()
        for batch in self.stream(range(len(self))):
            if len(batch["index"]):
                yield batch
        self.check()

    def stream(self, batches: Sequence[int], pin: bool = False) -> Generator[dict[str, Any], None, None]:
        """What `load` gives of these batches, in order. Raises what a process met as it is: DataError, OSError."""
        if not self.workers or len(batches) < 2 or self.split.decoded or self.split.generated:
            yield from map(self.load, batches)
            return
        with closing(_loader(self, batches, range(0), self.workers, pin)) as loaded:
            yield from loaded

    def load(self, batch: int, slots: range = range(0)) -> dict[str, Any]:
        """One batch, by its number, with the images newly met: broken {id: reason}. Where none can be read it has no views."""
        known, rows = len(self.broken), list[tuple[int, dict[str, np.ndarray]]]()
        asked = self.asked[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()
        wanted = [i for i in asked if i not in self.broken]
        self.split.expect(wanted)
        for i in wanted:
            try:
                rows.append((i, self.pipeline(_fetch(self.split, i, fixed=self.fixed), (*self.draw, i))))
            except BrokenImage as error:
                self.note({i: error.reason})
        return {
            "views": _stack([views for _, views in rows]) if rows else {},
            "index": torch.tensor([i for i, _ in rows], dtype=torch.int64),
            "broken": dict(list(self.broken.items())[known:]),
        }

    def note(self, broken: Mapping[int, str]) -> None:
        """Remember broken images, met here or by others."""
        self.broken.update(broken)
        self.split.met.update(broken)

    def check(self) -> None:
        """Raises DataError where too many were broken."""
        check_broken(self.split, self.broken, self.max_broken)
        if self.broken and not len(self.ids):
            i, reason = next(iter(self.broken.items()))
            raise DataError(
                f"data.source: none of the {len(self.broken)} images that were asked for can be read ({self.split.describe(i)}: {reason})"
            )


def loader(batches: GlobalBatches, steps: range, slots: range, *, workers: int, pin: bool) -> Iterator[dict[str, Any]]:
    """`batches.load(step, slots)` for each step in order, prepared ahead by `workers` forked processes (0: in this one).

    Decodes the split first where that pays, so that the processes share it. A generator: `close()` ends the processes.
    Raises what a process met as it is: DataError, OSError.
    """
    batches.split.prepare()
    batches.touch()
    batches.check({**batches.split.broken, **batches.broken})
    return _loader(batches, steps, slots, workers, pin)


def _loader(
    batches: GlobalBatches | EvalImages, steps: Sequence[int], slots: range, workers: int, pin: bool
) -> Generator[dict[str, Any], None, None]:
    options: dict[str, Any] = {"batch_size": None, "sampler": steps, "collate_fn": _as_is, "pin_memory": pin}
    options["generator"] = torch.Generator()  # else torch seeds the processes from the global one, which it advances
    if workers:
        forked = {"num_workers": workers, "multiprocessing_context": "fork", "worker_init_fn": one_thread}
        options |= forked | {"prefetch_factor": _AHEAD}
    with ExitStack() as opened:
        with quiet_start():
            ahead = _read_ahead(batches, steps[0] if steps else 0)
            if ahead is not None:
                opened.enter_context(closing(ahead))
            stream = iter(DataLoader(_Steps(batches, slots), **options))
        # torch offers no public way before the garbage collector's
        opened.callback(getattr(stream, "_shutdown_workers", lambda: None))
        for step, batch in zip(steps, _told(stream), strict=True):
            if isinstance(batch, Exception):
                raise batch
            if ahead is not None and isinstance(batches, GlobalBatches):
                ahead.at(*batches.place(step))
            batches.note(batch["broken"])  # a process knows only what it met itself
            yield batch


def _read_ahead(batches: GlobalBatches | EvalImages, first: int) -> ReadAhead | None:
    """Started where copies of shards are needed for training; what this process has open is closed before others are forked."""
    shards = batches.split.shards()
    if shards is None:
        return None
    shards.release()
    if (
        not isinstance(batches, GlobalBatches)
        or batches.shards is None
        or not isinstance(batches.order, Blocks)
        or not shards.sizes.any()
    ):
        return None
    found = ReadAhead(batches.shards, batches.order, batches.steps_per_epoch * batches.batch_size)
    found.at(*batches.place(first))
    return found


def _told(stream: Iterator[Any]) -> Iterator[Any]:
    """Raises UserError where the system killed a process, as it does where memory runs out: torch knows no more than the signal."""
    try:
        yield from stream
    except RuntimeError as error:
        killed = any(process.exitcode == -signal.SIGKILL for process in getattr(stream, "_workers", ()))
        if "DataLoader worker" not in str(error) or not killed:
            raise
        raise UserError(
            "data.workers: the system killed a process that prepares batches, probably as memory ran out; lower data.workers, data.memory_gb or "
            "train.batch_size"
        ) from None


class _Steps(Dataset):
    """Map-style by step. What a user can mend and failed reads come back as values: torch would wrap them into a traceback."""

    def __init__(self, batches: GlobalBatches | EvalImages, slots: range) -> None:
        self.batches, self.slots = batches, slots

    def __getitem__(self, step: int) -> dict[str, Any] | Exception:
        try:
            return self.batches.load(step, self.slots)
        except (UserError, OSError) as error:
            return error


def _as_is(batch: Any) -> Any:
    return batch


def one_thread(worker: int) -> None:
    """A loader process: its parent heeds the signals that a batch system sends to all of a job, and still needs the batches under way."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def quiet_start() -> Iterator[None]:
    """Without warnings of what is meant: forking shares the decoded set, and the number of processes is the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*suggested max number of worker.*", category=UserWarning)
        yield


def _fetch(split: Split, i: int, fixed: bool = False) -> Fetch:
    """The columns of a sample for the pipeline, each read once for all views; generated sources draw anew for each, unless `fixed`."""
    if split.generated and not fixed:
        return lambda column, rng: split.value(i, column, rng)
    known: dict[str, Any] = {}

    def fetch(column: str, rng: np.random.Generator) -> Any:
        if column not in known:
            known[column] = split.value(i, column, None)
        return known[column]

    return fetch


def _stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


_KINDS = {"image": "image", "patches": "image", "array": "array", "tokens": "text"}  # what a view's kind is drawn from


def check_views(split: Split, views: Mapping[str, View]) -> None:
    """Raises ConfigError where a view wants a column that the data lack or hold as another kind, or what no picture could satisfy."""
    check_shapes(views)
    for name, view in views.items():
        held = split.columns.get(view.source)
        if held is None:
            if view.source in split.absent:
                raise ConfigError(
                    f"views.{name}.source", f"no view is drawn from the column {view.source!r}: {split.absent[view.source]}"
                )
            has = ", ".join(f"{column} ({kind})" for column, kind in split.columns.items())
            raise ConfigError(f"views.{name}.source", f"this data set has no column {view.source!r}; it has {has}")
        if held != _KINDS[view.kind]:
            need = _KINDS[view.kind]
            raise ConfigError(
                f"views.{name}.kind", f"{view.kind} are drawn from a column of kind {need}, {view.source!r} is of kind {held}"
            )
