"""The checkpoints of a run: written beside training, told when they are safe, read back the newest whole one first."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import OnAllRanks, UserError
from ..storage.checkpoint import BEST, PATTERN, Found, dump, newest
from ..storage.folder import Storage

LATE = 10.0  # seconds that training waits for a write under way, and after which a write is said to hang
LAST = 60.0  # seconds that the last checkpoint has at least, where scale.max_unsaved_minutes is over by then

# How trouble with a checkpoint says what is safe
NONE_YET, NEWEST = "there is no checkpoint yet", "the newest checkpoint is of step"


class Unsaved(OnAllRanks):
    """No checkpoint could be written for longer than scale.max_unsaved_minutes."""


@dataclass(frozen=True)
class _Job:
    step: int
    state: dict[str, Any]
    best: bool


class Checkpoints:
    """The checkpoints of one run: written in a thread, the newest `keep` and the best kept.

    durable(step) is called when a checkpoint is safe, trouble("checkpoint", words) when one is not, and with no words when the next one
    is again; both from the writing thread. trouble("damage", words) tells of one that could not be read, trouble("old checkpoints", words) of those
    that cannot be removed. A write that hangs holds up
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
        self._told = self._cluttered = False

    def newest(self) -> Found | None:
        """The newest whole checkpoint of the run; one that is damaged is told of. Raises as storage.checkpoint.newest does."""
        found = newest(self.storage, lambda words: self.trouble("damage", words))
        self._step = found.state.get("step", 0) if found else self._step
        return found

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
        except UserError as error:
            self._error = error
        except Exception as error:
            self._error = error
            words = f"the checkpoint of step {job.step} could not be written to {self.storage.address}: {error}"
            self._tell(f"{words}; {self._since()}")
            if self.warns:
                warnings.warn(words, stacklevel=1)
        else:
            self._tidy(name)

    def _tidy(self, name: str) -> None:
        """Remove all but the newest `keep` up to this one: later ones are damaged, or of a state that the run went back from. Where they cannot be
        removed the new one is there all the same."""
        words = ""
        try:
            steps = [found for found in self.storage.names() if PATTERN.fullmatch(found)]
            for other in [
                *[found for found in steps if found <= name][: -self.keep],
                *[found for found in steps if found > name],
            ]:
                self.storage.remove(other)
        except Exception as error:
            words = (
                f"old checkpoints cannot be removed from {self.storage.address}, so that they take more and more room: {error}"
            )
        if words or self._cluttered:
            self.trouble("old checkpoints", words)
        self._cluttered = bool(words)

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
