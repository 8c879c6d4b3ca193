"""Where a run stands: what its checkpoints hold of it, taken and put back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import RunConfig
from ..evaluation.common.watch import Watch
from ..methods._base import Method
from ..model.sharding import Sharded
from .listener import Listener
from .restore import DoesNotFit, check_fits


@dataclass
class TrainState:
    """A run under way on this rank.

    skipped: steps that are left out, the caller's own set; worlds: the world sizes that the run has seen; step: optimiser steps done;
    inexact: it went on by `train.extend anyway`, so that it is no run of its length, for good;
    broken: why images cannot be read, by id; best: the highest online k-NN; watch: of the features, on rank 0.
    """

    config: RunConfig
    method: Method
    optimizer: Sharded
    listener: Listener
    fingerprint: Mapping[str, str]
    skipped: set[int]
    worlds: list[int]
    inexact: bool = False
    step: int = 0
    broken: dict[int, str] = field(default_factory=dict)
    best: float = -1.0
    watch: Watch | None = None
    _seconds: float = 0.0  # of training that led up to the checkpoint
    _began: float = field(default_factory=time.monotonic)

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what `snapshot` gave, or begin without it. Raises DoesNotFit where it is of another config or other data."""
        if not state:
            if self.skipped:  # back to the beginning
                self.listener.restore({"step": 0, "points": []})
            return
        check_fits(state, self.config, self.fingerprint)
        try:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, IndexError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DoesNotFit(
                f"the checkpoint is of other weights than {self.config.method.name} has now ({reason}): a contray of before wrote it, "
                "which goes on with it; its encoder is read as ever"
            ) from None
        self.step, self.broken, self.best = state["step"], dict(state["broken"]), state["best"]
        self._seconds = state.get("seconds", 0.0)
        self.skipped |= set(state.get("skipped", ()))
        before, now = state["worlds"], self.worlds[-1]
        self.worlds = before if before[-1] == now else [*before, now]
        theirs, train = RunConfig.from_yaml(state["config"]).train, self.config.train
        bent = train.extend == "anyway" and (theirs.steps, theirs.epochs) != (train.steps, train.epochs)
        known = bool(state.get("inexact", theirs.extend == "anyway"))
        self.inexact = known or bent
        self.listener.restore({**state, "bent": bent and not known})

    def begin(self) -> None:
        """Training begins now: what came before does not count into its seconds."""
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """That the run has trained, with what led up to the checkpoint that it went on from."""
        return self._seconds + time.monotonic() - self._began

    def snapshot(self) -> dict[str, Any]:
        """What a checkpoint holds, on rank 0. All ranks come to it together."""
        return {
            "format": 1,
            "step": self.step,
            "config": self.config.to_yaml(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "broken": self.broken,
            "skipped": sorted(self.skipped),
            "best": self.best,
            "worlds": self.worlds,
            "inexact": self.inexact,
            "seconds": self.seconds,
            "fingerprint": self.fingerprint,
            "points": self.listener.pending(),
            "watch": self.watch.state if self.watch else {},
        }

    def facts(self) -> dict[str, Any]:
        """What all ranks must know alike, beside the tensors."""
        return {"step": self.step, "broken": sorted(self.broken.items()), "skipped": sorted(self.skipped)}
