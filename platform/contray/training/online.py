"""Evaluation while a run trains, and its end where the features have collapsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.common.crew import Crew
from ..evaluation.common.watch import Collapsed, Watch
from ..methods._base import Method
from .state import TrainState


def watch_of(crew: Crew, method: Method, state: Mapping[str, Any] | None) -> Watch | None:
    """On rank 0 what a run is watched by, its images read by all ranks; None on the others. To be called by every rank."""
    if crew.rank:
        return crew.follow(method)
    with crew.leading():
        return Watch(crew.config, crew.source, crew.device, state, crew)


class Online:
    """Evaluates by `run.watch`, which rank 0 alone has, on all ranks: after the first step, the last, and every eval.every_epochs between."""

    def __init__(self, run: TrainState, crew: Crew, steps_per_epoch: int, total: int) -> None:
        self.run, self.crew, self.total = run, crew, total
        self.evaluates, self.every = (
            run.config.eval.every_epochs > 0,
            max(1, round(run.config.eval.every_epochs * steps_per_epoch)),
        )

    def due(self, step: int) -> bool:
        return self.evaluates and (step in (1, self.total) or step % self.every == 0)

    def __call__(self) -> bool:
        """Evaluate, and tell the listener. Whether the run was never better, which rank 0 knows."""
        watch = self.run.watch
        if watch is None:
            self.crew.follow(self.run.method)
            return False
        with self.crew.leading():
            return self._measure(self.run, watch)

    def _measure(self, run: TrainState, watch: Watch) -> bool:
        if run.step == 1 < min(self.every, self.total):
            run.listener.log(1, watch.begin(run.method))
            return False
        values = watch(run.method)
        top1 = values.get("knn_val_top1", run.best)
        improved, run.best = top1 > run.best, max(run.best, top1)
        # the verdict logs the others at this step
        told = values if run.step < self.total else watch.without(run.config.eval.final)
        if told:
            run.listener.log(run.step, told)
        if watch.news:
            run.listener.collapsed(run.step, watch.news)
        run.listener.evaluated(run.step, run.step / self.total, values, run.snapshot)
        return improved

    def check_collapse(self) -> None:
        """Raises Collapsed, on rank 0, where that is what stops the run (train.on_collapse)."""
        run, watch = self.run, self.run.watch
        if watch and watch.stops and run.step < self.total:
            raise Collapsed(run.step, watch.alarm.words)
