"""One trial of a sweep, in a process of Tune's: trains, reports each online evaluation, and leaves its outcome in the trial's folder."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import track
from ..config import RunConfig
from ..training.checkpoint import Storage, dump, load
from ..training.ray_train import fit
from ..training.worker import Asked, Plan, work

ONLINE = "knn_val_top1"
WORST = -1.0  # below any accuracy and any rank
RECORD, ENDED, STATE = "run.json", "ended.json", "state.pt"


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


def run_trial(params: Mapping[str, Any], plan: TrialPlan) -> None:
    """Train and measure one trial. Its last report carries the metrics that trials are ranked on."""
    from ray import tune

    config = RunConfig.from_yaml(plan.base, dict(params))
    trial_id = tune.get_context().get_trial_id() or ""
    name = f"{Path(plan.folder).name}-{trial_id}"
    place = Storage(plan.folder) / trial_id
    place.create()
    run = _record(config, name, params, place, plan)
    report = TuneReport(trial_id, plan.online)
    status = "FAILED"
    try:
        if plan.nested:
            ended = fit(config, name, place, run, report, final="validation")
        else:
            start = _taken_over(config, trial_id, run) if plan.pbt else None
            whole = Plan(config.to_yaml(), place.address, run, plan.cpus, "validation")
            ended = work(whole, lambda message: report.show(message) or Asked(), start=start, offer=plan.pbt)
        if plan.pbt:
            run.log_params({key: config.flat()[key] for key in params})  # as they are now: they change no more
        place.write("config.yaml", config.to_yaml().encode())
        place.write(ENDED, json.dumps({**ended["metrics"], "step": ended["step"]}).encode())
        status = "FINISHED"
    except SystemExit:  # how Tune ends a trial, from within its report
        status = "KILLED"
        raise
    finally:
        with contextlib.suppress(track.TrackingError):
            run.finish(status)
    tune.report(
        {**ended["metrics"], "step": ended["step"], "progress": 100, "done": True}
    )  # done: no scheduler has a say any more


def _record(config: RunConfig, name: str, params: Mapping[str, Any], place: Storage, plan: TrialPlan) -> track.TrackedRun:
    """The trial's MLflow run: a new child of the sweep's, or the one that this trial began before it was interrupted."""
    known = json.loads(place.read(RECORD)) if RECORD in place.names() else {}
    tags = {
        "contray.kind": "trial",
        "contray.method": Path(config.method.name).stem,
        "contray.preset": config.method.preset,
        "contray.dataset": Path(config.data.source).name,
        "contray.group": config.digest("scale", "track", "seed"),
    }
    # PBT changes its keys on the way, and MLflow's params cannot change: those are logged at the end
    logged = {key: value for key, value in config.flat().items() if not (plan.pbt and key in params)}
    run = track.begin(
        plan.parent.uri, config.track.experiment, name, params=logged, tags=tags, run_id=known.get("run_id"), parent_id=plan.parent.run_id
    )  # fmt: skip
    place.write(RECORD, json.dumps({"run_id": run.run_id}).encode())
    return run


class TuneReport:
    """The adapter between a trial and Tune: the same for a trial that trains in its own process and for one that starts Ray Train.

    It takes the messages that a progress bar would take, and reports each online evaluation but the last: the trial's last report
    brings that with the probe's, and PBT must not change a trial that has no step left to train.
    """

    def __init__(self, trial_id: str, online: str = ONLINE) -> None:
        self.trial_id, self.online, self.reported = trial_id, online, -1

    def show(self, message: Mapping[str, Any]) -> None:
        """Report to Tune when `message` brings a new evaluation. Raises SystemExit when Tune ends the trial."""
        from ray import tune

        if self.online in message and self.reported < message.get("evaluated", -1) < message["total"]:
            self.reported = int(message["evaluated"])
            progress, value = 100 * self.reported // message["total"], message[self.online]
            told = value if math.isfinite(value) else WORST  # a scheduler cannot compare NaN, and would let the trial go on
            with self._checkpoint(message) as checkpoint:
                tune.report({self.online: told, "step": self.reported, "progress": progress}, checkpoint=checkpoint)

    @contextlib.contextmanager
    def _checkpoint(self, message: Mapping[str, Any]) -> Iterator[Any]:
        """The state that PBT copies from one trial to another, where the message offers it."""
        if "save" not in message:
            yield None
            return
        from ray import tune

        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / STATE).write_bytes(dump({**message["save"](), "trial": self.trial_id}))
            yield tune.Checkpoint.from_directory(folder)


def _taken_over(config: RunConfig, trial_id: str, run: track.TrackedRun) -> dict[str, Any] | None:
    """The state that PBT has this trial go on from: its own, or that of a better trial; None at the start.

    PBT has changed keys of the config (LIVE_KEYS, none of which the state depends on), so the state passes as one of this config. Points that
    MLflow has not acknowledged stay with the trial they are of.
    """
    from ray import tune

    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        state = load((Path(folder) / STATE).read_bytes(), f"the state of {trial_id}")
    donor = state.pop("trial")
    if donor != trial_id:
        state["points"] = []
        run.set_tags({"contray.taken_over": f"trial {donor} at step {state['step']}"})
    return {**state, "config": config.to_yaml()}
