"""One trial of a sweep, in a process of Tune's: trains, reports each online evaluation, and leaves its outcome in the trial's folder."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import track
from ..config import RunConfig
from ..config.registry import name_code
from ..storage import sealed
from ..storage.checkpoint import dump, latest, load
from ..storage.folder import Storage
from ..storage.logins import remember
from ..training.describing import trial_title
from ..training.lease import RENEW, Fenced, LeaseLost
from ..training.ray_train import fit
from ..training.records import ENDED
from ..training.worker import Asked, TrainingJob, work
from .ranking import COSTS

ONLINE = "knn_val_top1"
WORST = -1.0  # below any accuracy and any rank
RECORD, REPORTS, STATE = "run.json", "reports.json", "state.pt"


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a sweep share, in plain values that travel to Tune's processes."""

    base: str  # YAML of the config that a trial's parameters change
    folder: str
    parent: track.TrackedRun
    nested: bool  # trials of several workers start Ray Train
    cpus: int
    pbt: bool
    online: str = ONLINE  # the metric of each online evaluation that the scheduler goes by
    token: str = ""  # of the sweep's lease, which all trials share
    lease: str = ""  # the folder that it lies in
    code: tuple[str, ...] = ()  # as in a TrainingJob
    logins: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    tags: Mapping[str, str] = field(default_factory=dict)  # of all trials: the data, and who started the sweep where and how


def run_trial(params: Mapping[str, Any], plan: TrialPlan) -> None:
    """Train and measure one trial. Its last report carries the metrics that trials are ranked on."""
    from ray import tune

    name_code(*plan.code)
    remember(plan.logins)
    config = RunConfig.from_yaml(plan.base, dict(params))
    trial = tune.get_context().get_trial_name() or ""
    name = f"{Path(plan.folder).name}-{trial}"
    Storage(f"{plan.folder}/{trial}").create()
    place = Fenced(f"{plan.folder}/{trial}", plan.token, plan.lease)
    report = TuneReport(trial, place, plan.online)
    if ENDED in place.names():
        report.replay()
        tune.report({**(sealed.read(place, ENDED, sealed.NUMBER) or {}), "progress": 100, "done": True})
        return
    run = _record(config, name, params, place, plan)
    status = "FAILED"
    try:
        if not plan.pbt:  # a population is perturbed by what it does now
            report.replay()
        if plan.nested:
            ended = fit(config, name, place, run, report, final="validation")
        else:
            start = (_taken_over(config, trial, run) or _own(config, place)) if plan.pbt else None
            whole = TrainingJob(
                config.to_yaml(),
                place.address,
                run,
                plan.cpus,
                "validation",
                plan.token,
                plan.lease,
                plan.code,
                plan.logins,
                name,
            )
            ended = work(whole, lambda message: report.show(message) or Asked(), start=start, offer=plan.pbt)
        if plan.pbt:
            run.log_params({key: config.flat()[key] for key in params})  # as they are now: they change no more
        place.write("config.yaml", config.to_yaml().encode())
        measured = {
            **report.latest,
            **ended["metrics"],
            **{name: float(ended[name]) for name in COSTS if ended.get(name) is not None},
        }
        sealed.write(place, ENDED, {**measured, "step": ended["step"]})
        status = "FINISHED"
    except SystemExit:  # how Tune ends a trial, from within its report
        status = "KILLED"
        raise
    except LeaseLost:
        status = ""  # another driver's to say
        raise
    finally:
        if status:
            with contextlib.suppress(track.TrackingError):
                run.finish(status)
    tune.report({**measured, "step": ended["step"], "progress": 100, "done": True})  # done: no scheduler has a say any more


def _record(config: RunConfig, name: str, params: Mapping[str, Any], place: Storage, plan: TrialPlan) -> track.TrackedRun:
    """The trial's MLflow run: a new child of the sweep's, or the one that this trial began before it was interrupted."""
    known = sealed.read(place, RECORD, {"run_id": str, "params": dict}) or {}
    plain = {key: value.item() if hasattr(value, "item") else value for key, value in params.items()}  # numpy's numbers
    tags = {
        **plan.tags,
        "contray.kind": "trial",
        "contray.name": name,
        "contray.method": Path(config.method.name).stem,
        "contray.preset": config.method.preset,
        "contray.group": config.digest("scale", "track", "seed"),
    }
    # PBT changes its keys on the way, and MLflow's params cannot change: those are logged at the end
    logged = {key: value for key, value in config.flat().items() if not (plan.pbt and key in params)}
    run = track.begin(
        plan.parent.uri,
        config.track.experiment,
        trial_title(place.name, plain),
        params=logged,
        tags=tags,
        run_id=known.get("run_id"),
        again=config.track.again,
        parent_id=plan.parent.run_id,
    )
    sealed.write(place, RECORD, {**known, "run_id": run.run_id, "params": plain})
    return run


class TuneReport:
    """The adapter between a trial and Tune: the same for a trial that trains in its own process and for one that starts Ray Train.

    It takes the messages that a progress bar would take, and reports each online evaluation but the last: the trial's last report
    brings that with the probe's, and PBT must not change a trial that has no step left to train.
    """

    def __init__(self, trial: str, place: Fenced, online: str = ONLINE) -> None:
        self.trial, self.place, self.online, self.reported = trial, place, online, -1
        self.latest: dict[
            str, float
        ] = {}  # the online metric, for schedulers and samplers where the trial's end does not measure it
        self._reports: list[dict[str, Any]] = (sealed.read(place, REPORTS, {"reports": list}) or {}).get("reports", [])
        self._checked = time.monotonic()

    def replay(self) -> None:
        """Report again what an earlier life of the sweep was told. Raises SystemExit when Tune ends the trial."""
        from ray import tune

        for report in self._reports:
            self.reported = report["step"]
            tune.report(report)

    def show(self, message: Mapping[str, Any]) -> None:
        """Report to Tune when `message` brings a new evaluation. Raises SystemExit when Tune ends the trial, LeaseLost as the place does."""
        from ray import tune

        if time.monotonic() - self._checked > RENEW:
            self.place.check()
            self._checked = time.monotonic()
        if math.isfinite(message.get(self.online, math.nan)):
            self.latest = {self.online: float(message[self.online])}
        if self.online in message and self.reported < message.get("evaluated", -1) < message["total"]:
            self.reported = int(message["evaluated"])
            progress, value = 100 * self.reported // message["total"], message[self.online]
            told = value if math.isfinite(value) else WORST  # a scheduler cannot compare NaN, and would let the trial go on
            report = {self.online: told, "step": self.reported, "progress": progress}
            self._reports.append(report)
            sealed.write(self.place, REPORTS, {"reports": self._reports})
            with self._checkpoint(message) as checkpoint:
                tune.report(report, checkpoint=checkpoint)

    @contextlib.contextmanager
    def _checkpoint(self, message: Mapping[str, Any]) -> Iterator[Any]:
        """The state that PBT copies from one trial to another, where the message offers it."""
        if "save" not in message:
            yield None
            return
        from ray import tune

        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / STATE).write_bytes(dump({**message["save"](), "trial": self.trial}))
            yield tune.Checkpoint.from_directory(folder)


def _taken_over(config: RunConfig, trial: str, run: track.TrackedRun) -> dict[str, Any] | None:
    """The state that PBT has this trial go on from: its own, or that of a better trial; None at the start.

    PBT has changed keys of the config (LIVE_KEYS, none of which the state depends on), so the state passes as one of this config. Points that
    MLflow has not acknowledged stay with the trial they are of.
    """
    from ray import tune

    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        state = load((Path(folder) / STATE).read_bytes(), f"the state of {trial}")
    donor = state.pop("trial")
    if donor != trial:
        state["points"] = []
        run.set_tags({"contray.taken_over": f"trial {donor} at step {state['step']}"})
    return {**state, "config": config.to_yaml()}


def _own(config: RunConfig, place: Storage) -> dict[str, Any] | None:
    """The state in which an earlier life of the sweep left this member of a population, as one of the parameters that it has now."""
    state = latest(place)
    return {**state, "config": config.to_yaml()} if state else None
