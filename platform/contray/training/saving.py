"""When a run saves."""

from __future__ import annotations

import time

from ..errors import UserError
from .agreement import Ranks
from .checkpoints import Checkpoints
from .state import TrainState

HURRY_SECONDS = 1.0  # between checkpoints while the run may lose its machines


class Saver:
    """Saves a run on rank 0: every train.checkpoint_steps and train.checkpoint_seconds, after the last step, and when told to."""

    def __init__(self, run: TrainState, checkpoints: Checkpoints | None, ranks: Ranks, total: int) -> None:
        self.run, self.ranks, self.total = run, ranks, total
        self.checkpoints = checkpoints if ranks.rank == 0 else None
        self._saved = time.monotonic()

    def asked(self) -> tuple[bool, bool, UserError | None]:
        """What rank 0 asks of all ranks before a step: a checkpoint after it, an end after it, an end now."""
        if self.ranks.rank:
            return False, False, None
        run, checkpoints, most = self.run, self.checkpoints, self.run.config.train.checkpoint_seconds
        pace = min(most, HURRY_SECONDS) if run.listener.hurry() else most
        due = checkpoints is not None and time.monotonic() - self._saved > pace and not checkpoints.busy
        stops = run.listener.stop() or (run.watch is not None and run.watch.stops)
        return due, stops, checkpoints.overdue() if checkpoints else None

    def due(self, step: int) -> bool:
        """Whether all ranks know without being asked that the state after `step` is saved."""
        every = self.run.config.train.checkpoint_steps
        return step == self.total or bool(every and step % every == 0)

    def __call__(self, best: bool, last: bool) -> None:
        """Write beside training; the last checkpoint is waited for. Raises as Checkpoints.save does."""
        state = self.run.snapshot()
        if self.checkpoints:
            self.checkpoints.save(self.run.step, state, best=best, wait=last)
            self._saved = time.monotonic()
