"""What every training worker does: train, and, on rank 0, measure and record. The same function runs under Ray Train and in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist

from methods._ranks import world_size

from .. import data, model
from ..config import RunConfig
from ..evaluation.diagnosis import Collapsed
from ..logins import remember
from ..registry import name_code
from ..track import MetricLog, TrackedRun, TrackingError
from . import artifacts
from .artifacts import Ended
from .checkpoint import Storage
from .lease import Fenced
from .loop import Listener, Outcome, train
from .spool import close

VERDICT = "verdict.json"
HEAR_SECONDS = 0.5  # how often rank 0 hears what is asked of it, between the steps that it logs
CLOSE_SECONDS = 20.0  # that the last points may take to MLflow; what is left is kept for `contray sync`


@dataclass(frozen=True)
class Plan:
    """A resolved run, in plain values that travel to any worker."""

    config: str  # YAML: a user's own method file has no module that a worker could unpickle
    storage: str
    run: TrackedRun | None
    threads: int
    final: Literal["test", "validation"] = "test"  # trials are ranked on held-out training data; the test set stays shut
    token: str = ""  # of the lease under which the storage may be written
    lease: str = ""  # the folder that the lease lies in; empty: the storage
    code: tuple[str, ...] = ()  # files that the user named, which the config may name too
    logins: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)  # of the addresses in the config


class Asked(NamedTuple):
    """What whoever watches asks of a run: to stop with a checkpoint, to make a checkpoint soon."""

    stop: bool = False
    save: bool = False


class Recorder(Listener):
    """Sends metrics to MLflow exactly once, and progress to whoever watches."""

    def __init__(self, run: TrackedRun | None, total: int, show: Callable[[dict[str, Any]], Asked], offer: bool = False) -> None:
        self.run, self.total, self.offer = run, total, offer
        self._show = show
        self._log: MetricLog | None = None
        self._asked, self._heard = Asked(), time.monotonic()

    def show(self, message: dict[str, Any]) -> None:
        """Pass a message on, and hear what is asked."""
        self._asked, self._heard = self._show(message), time.monotonic()

    @property
    def metrics(self) -> MetricLog | None:
        if self._log is None and self.run is not None:
            self._log = MetricLog(self.run)
        return self._log

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.run is not None:
            if self._log is not None:  # the run went back within this process: two logs must not send the same points
                self._log.close(timeout_s=20)
            self._log = MetricLog(self.run, pending=[tuple(point) for point in state["points"]])
        self.show({"step": state["step"], "total": self.total, "resumed": state["step"], "workers": world_size()})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.metrics:
            self.metrics.log(step, values)
        self.show({"step": step, "total": self.total, **values})

    def evaluated(self, step: int, fraction: float, values: Mapping[str, float], save: Callable[[], dict[str, Any]]) -> None:
        self.show({"step": step, "total": self.total, "evaluated": step, **values, **({"save": save} if self.offer else {})})

    def collapsed(self, step: int, words: str) -> None:
        self.show({"collapse": words})
        if self.run is not None:
            try:
                self.run.set_tags({"contray.collapse": words})
            except TrackingError as error:
                print(f"contray: the tag contray.collapse was not recorded ({error})", flush=True)

    def durable(self, step: int) -> None:
        if self.metrics:
            self.metrics.durable(step)

    def pending(self) -> list[tuple[str, float, int, int]]:
        return self.metrics.pending() if self.metrics else []

    def stop(self) -> bool:
        return self._asked.stop

    def hurry(self) -> bool:
        if time.monotonic() - self._heard > HEAR_SECONDS:
            self.show({})
        return self._asked.save


def work(
    plan: Plan, show: Callable[[dict[str, Any]], Asked], start: Mapping[str, Any] | None = None, offer: bool = False
) -> dict[str, Any]:
    """Train one rank of a run to its end. Rank 0 returns what there is to say, in plain values.

    `show` takes progress messages and says what is asked of the run. start: a state to go on from in place of the newest
    checkpoint. offer: messages of an evaluation carry `save`, which gives the state that a checkpoint would hold.
    """
    torch.set_num_threads(plan.threads)
    name_code(*plan.code)
    remember(plan.logins)
    config = RunConfig.from_yaml(plan.config)
    rank = dist.get_rank() if world_size() > 1 else 0
    source = data.open_source(config.data)
    storage = Fenced(plan.storage, plan.token, plan.lease)
    total = config.total_steps(len(source.train))
    recorder = Recorder(plan.run if rank == 0 else None, total, show if rank == 0 else lambda message: Asked(), offer)
    try:
        outcome = train(config, source, storage, recorder, start)
    except Collapsed:
        if recorder.metrics:
            close(recorder.metrics, storage, CLOSE_SECONDS)  # the curves that led there are what one wants to see now
        raise
    if rank != 0:
        return {}
    metrics: dict[str, float] = {}
    if outcome.finished and config.eval.final:
        show({"phase": "measuring"})
        metrics = _measure(config, source, storage, outcome, plan.final)
        if recorder.metrics:
            recorder.metrics.log(outcome.step, metrics)
            recorder.metrics.durable(outcome.step)
    unsent = close(recorder.metrics, storage, CLOSE_SECONDS) if recorder.metrics else 0
    kept = plan.run is None or plan.final != "test" or _keep_artifacts(plan.run, config, source, outcome, metrics)
    return {
        "step": outcome.step,
        "finished": outcome.finished,
        "metrics": metrics,
        "worlds": outcome.worlds,
        "seconds": outcome.seconds,
        "images_per_second": outcome.images_per_second,
        "broken": {source.train.describe(i): reason for i, reason in outcome.broken.items()},
        "unsent": unsent,
        "artifacts": kept,
        "test_images": len(source.test) if source.test is not None else 0,
        "labelled": source.train.labels is not None,
    }


def _measure(config: RunConfig, source: data.Source, storage: Storage, outcome: Outcome, final: str) -> dict[str, float]:
    """The verdict, kept beside the checkpoints: a run that dies while recording it does not open the test set again."""
    from ..evaluation.diagnosis import geometry_of
    from ..evaluation.online import verdict

    if VERDICT in storage.names():
        return json.loads(storage.read(VERDICT))
    device, test = model.device_of(config), final == "test"
    metrics = geometry_of(config, source, outcome.method, device, untrained=test)
    if source.train.labels is not None:
        metrics = verdict(config, source, outcome.method, device, test=test) | metrics
    storage.write(VERDICT, json.dumps(metrics, indent=1).encode())
    return metrics


def _keep_artifacts(
    run: TrackedRun, config: RunConfig, source: data.Source, outcome: Outcome, metrics: Mapping[str, float]
) -> bool:
    """Whether all were kept. An outage is said, not raised: training is done and its checkpoint safe."""
    ended = Ended(config, outcome.step, outcome.worlds, outcome.finished, metrics)
    try:
        artifacts.keep(run, ended, lambda: source.train, lambda: outcome.method)
    except (TrackingError, OSError) as error:
        print(f"contray: artifacts were not recorded ({error}); `contray sync` makes them from the checkpoint", flush=True)
        return False
    return True
