"""Evaluation while a run trains, and its end where the features have collapsed."""

from __future__ import annotations

from ..evaluation.common.watch import Collapsed
from .state import TrainState


class Online:
    """Evaluates by `run.watch`, which rank 0 alone has: after the first step, the last, and every eval.every_epochs between."""

    def __init__(self, run: TrainState, steps_per_epoch: int, total: int) -> None:
        self.run, self.total = run, total
        self.evaluates, self.every = (
            run.config.eval.every_epochs > 0,
            max(1, round(run.config.eval.every_epochs * steps_per_epoch)),
        )

    def due(self, step: int) -> bool:
        return self.evaluates and (step in (1, self.total) or step % self.every == 0)

    def __call__(self) -> bool:
        """Evaluate, and tell the listener. Whether the run was never better."""
        run, watch = self.run, self.run.watch
        if watch is None:
            return False
        if run.step == 1 < min(self.every, self.total):
            run.listener.log(1, watch.begin(run.method))
            return False
        values = watch(run.method)
        top1 = values.get("knn_val_top1", run.best)
        improved, run.best = top1 > run.best, max(run.best, top1)
        told = (
            values if run.step < self.total else watch.without(run.config.eval.final)
        )  # the verdict logs the others at this step
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
