"""What a search came to: its trials, ranked; the winner and its test set."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import data, model, track
from ..config import RunConfig
from ..errors import UserError
from ..storage import sealed
from ..storage.folder import Storage
from ..tables import Shown, Table
from ..training.reasons import one_line
from ..training.records import ENDED
from .ranking import COSTS, rankable
from .shown import shown
from .trial import RECORD

if TYPE_CHECKING:
    from .importance import Importance


@dataclass(frozen=True)
class Trial:
    """One trial as it ended: `status` is finished, stopped (by the scheduler or the time budget) or failed."""

    name: str
    params: Mapping[str, Any]
    status: str
    metrics: Mapping[str, float]
    run_id: str
    folder: str
    step: int
    problem: str = ""


@dataclass(frozen=True, repr=False)
class SweepResult(Shown):
    """A sweep as it ended: trials ranked best first, the winner's config, the MLflow parent run and the comparison's link.

    It prints as the table of its trials; functions that take a run take a trial.
    """

    name: str
    metric: str
    trials: list[Trial]
    best: Trial | None
    best_config: Path | str | None  # an address where the sweep lies in an object store, as that of `plots`
    plots: Path | str
    run_id: str
    url: str
    space: Mapping[str, Any] = field(default_factory=dict)
    parent_url: str = ""
    uri: str = ""  # of the store
    against: str = ""  # a cost
    front: Sequence[str] = ()  # the trials that no other beats in both, the best in `metric` first
    importance: Sequence[Importance] = ()  # of the keys, for the metric and for the cost; none where too few trials tell
    pictures: Sequence[Path | str] = ()  # all, `plots` among them

    @property
    def shown(self) -> list[Table | str | Path]:
        return [*shown(self)]


def trials_of(results: Any, folder: Storage, parent: track.TrackedRun, config: RunConfig) -> list[Trial]:
    """The trials that began. MLflow gets what finished ones cost, and the last online metrics of the others: their curves end at their last
    checkpoint.
    """
    trials = []
    for result in results:
        last = result.metrics or {}
        name = Path(result.path).name  # not last["trial_id"]: of a trial that took over, that is the other's
        place = folder / name
        files = place.names()
        if RECORD not in files and not result.error:
            continue  # the time budget came first
        run_id = (sealed.read(place, RECORD, {"run_id": str, "params": dict}) or {}).get("run_id", "")
        finished = ENDED in files
        ended = (sealed.read(place, ENDED, sealed.NUMBER) or {}) if finished else last
        metrics = {key: value for key, value in ended.items() if rankable(config, key) or (finished and key in COSTS)}
        status = "finished" if finished else "failed" if result.error else "stopped"
        problem = "" if finished or not result.error else one_line(result.error)
        trials.append(
            Trial(name, result.config or {}, status, metrics, run_id, place.address, int(ended.get("step", 0)), problem)
        )
        told = {key: value for key, value in metrics.items() if key in COSTS} if finished else metrics
        if run_id and told:
            with contextlib.suppress(track.TrackingError):
                track.attach(parent.uri, run_id).log_metrics(told, step=trials[-1].step)
    return trials


def end_trials(parent: track.TrackedRun) -> None:
    """End the runs of trials whose process ended before it could do so."""
    mine = f"tags.`mlflow.parentRunId` = '{parent.run_id}' and attributes.status = 'RUNNING'"
    with track.asking(parent.uri, "ending trials") as talk:
        for run in talk.search_runs([parent.experiment_id], mine):
            talk.set_terminated(run.info.run_id, "KILLED")


def ranked(trials: list[Trial], metric: str, online: str) -> list[Trial]:
    """Finished trials first: what a stopped one had reached is no verdict. What is no number is worse than any."""

    def known(trial: Trial, name: str) -> float:
        value = trial.metrics.get(name, -math.inf)
        return value if math.isfinite(value) else -math.inf

    def rank(trial: Trial) -> tuple[bool, float, float]:
        return trial.status == "finished", known(trial, metric), known(trial, online)

    return sorted(trials, key=rank, reverse=True)


def crown(config: RunConfig, best: Trial, parent: track.TrackedRun) -> tuple[Trial, RunConfig]:
    """Open the test set for the winner, once, where there are labels; let the sweep's run carry its metrics and params. With the winner's config."""
    from ..config.evaluations import needing_labels
    from ..evaluation import Subject
    from ..evaluation.common.run import run
    from ..model.encoder import read_checkpoint

    encoder = read_checkpoint(best.folder)
    winner = config.replace(dict(best.params))
    source, device = data.open_source(winner), model.device_of(winner)
    measured: dict[str, float] = {}
    try:
        if source.train.labels is not None:
            subject = Subject(winner, encoder.method.to(device), device, given=source)
            found = run(needing_labels(winner.eval.final), subject)
            measured = {**found, **found.about}
    except UserError as error:  # the ranking stands without the test set
        print(f"contray: the winner could not be measured on the test set: {error}", flush=True)
    metrics = {**best.metrics, **measured}
    child = track.attach(parent.uri, best.run_id)
    child.log_metrics({name: value for name, value in metrics.items() if name not in best.metrics}, step=best.step)
    child.set_tags({"contray.winner": "true"})
    parent.log_metrics(metrics, step=best.step)
    parent.log_params({f"best.{key}": value for key, value in best.params.items()})
    return replace(best, metrics=metrics), winner
