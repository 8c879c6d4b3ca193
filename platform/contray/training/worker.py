"""What every training worker does: train, and, on rank 0, measure and record. The same function runs under Ray Train and in this process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist

from .. import data, model
from ..config import RunConfig
from ..config.registry import name_code
from ..errors import UserError
from ..evaluation import Measured, Subject
from ..evaluation.common.crew import Crew
from ..evaluation.common.verdict import words
from ..evaluation.common.watch import Collapsed
from ..methods._ranks import world_size
from ..storage import sealed
from ..storage.folder import Storage
from ..storage.logins import remember
from ..track import INEXACT, Audience, MetricLog, Run, TrackedRun, TrackingError, datasets_of
from . import artifacts
from .advice import advice
from .artifacts import Ended
from .checkpoints import NEWEST, NONE_YET
from .lease import Fenced
from .listener import Listener
from .loop import Outcome, train
from .memory import Peak
from .progress import TROUBLES, lasting
from .records import TAG_CHARS
from .signature import TAG, signature
from .spool import close

VERDICT, CURVE = "verdict.json", "knn_val_top1"
UNMEASURED = "contray.unmeasured"  # the tag of a run that is trained, and why it could not be measured
HEAR_SECONDS = 0.5  # how often rank 0 hears what is asked of it, between the steps that it logs
TOLD = "contray.verdict"  # the tag of the verdict in words
TROUBLE = "contray.trouble"
CLOSE_SECONDS = 20.0  # that the last points may take to MLflow; what is left is kept for `contray sync`


@dataclass(frozen=True)
class TrainingJob:
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
    name: str = ""  # of the run; empty: its folder's


class Asked(NamedTuple):
    """What whoever watches asks of a run: to stop with a checkpoint, to make a checkpoint soon."""

    stop: bool = False
    save: bool = False


class Recorder(Listener):
    """Sends metrics to MLflow exactly once, progress and trouble to whoever watches, and all events to the listeners of `track.listeners`."""

    speaks = True

    def __init__(
        self,
        run: TrackedRun | None,
        total: int,
        show: Callable[[dict[str, Any]], Asked],
        offer: bool = False,
        fence: Callable[[], None] = lambda: None,
        listeners: Sequence[str] = (),
        place: str = "",
        signed: RunConfig | None = None,
    ) -> None:
        self.run, self.total, self.offer, self.fence = run, total, offer, fence
        self._show, self._place, self._signed = show, place, signed
        self._log: MetricLog | None = None
        self.step = 0  # that was last logged
        self.curve: list[tuple[int, float]] = []  # (step, held-out k-NN top-1) of this process's life
        self.collapse = ""  # the alarm's words
        self._asked, self._heard = Asked(), time.monotonic()
        self._troubles: dict[str, str] = {}
        self._tagged: str | None = None  # not known: an earlier life of the run may have left something there
        self._bent = False  # by train.extend anyway, in this life
        self._before: Mapping[str, str] = {}  # the fingerprint of the checkpoint that it went on from
        self._safe = (-1, time.monotonic())  # the last durable checkpoint: its step, and since when there is it
        self.audience = Audience(listeners, self.trouble)

    def show(self, message: dict[str, Any]) -> None:
        """Pass a message on, and hear what is asked."""
        self._asked, self._heard = self._show(message), time.monotonic()

    @property
    def metrics(self) -> MetricLog | None:
        if self._log is None and self.run is not None:
            self._log = MetricLog(self.run, trouble=self.trouble, fence=self.fence)
        return self._log

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.run is not None:
            if self._log is not None:  # the run went back within this process: two logs must not send the same points
                self._log.close(timeout_s=20)
            self._log = MetricLog(
                self.run, pending=[tuple(point) for point in state["points"]], trouble=self.trouble, fence=self.fence
            )
            self._tag()
        self._safe = (state["step"] or -1, time.monotonic())
        self._before, self._bent = state.get("fingerprint", {}), bool(state.get("bent"))
        self.show({"step": state["step"], "total": self.total, "resumed": state["step"], "workers": world_size()})
        self.audience.tell("restore", state["step"])

    def opened(self, source: data.Source, fingerprint: Mapping[str, str]) -> None:
        if self.metrics:
            signed = {TAG: signature(self._signed, fingerprint)} if self._signed else {}
            if self._bent:
                signed[INEXACT] = f"trained on from {max(self._safe[0], 0)} to {self.total} steps, whose schedules differ"
            if changed := [key for key, value in self._before.items() if fingerprint.get(key) != value]:  # train.allow_changes
                signed[INEXACT] = f"went on although {', '.join(changed)} changed"
            self.metrics.inputs(datasets_of(source, fingerprint["data"], self._place), signed)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.step = step
        if self.metrics:
            self.metrics.log(step, values)
        self.show({"step": step, "total": self.total, **values})
        self.audience.tell("log", step, dict(values))

    def evaluated(self, step: int, fraction: float, values: Mapping[str, float], save: Callable[[], dict[str, Any]]) -> None:
        if CURVE in values:
            self.curve.append((step, values[CURVE]))
        self.show({"step": step, "total": self.total, "evaluated": step, **values, **({"save": save} if self.offer else {})})
        self.audience.tell("evaluated", step, fraction, dict(values))

    def collapsed(self, step: int, words: str) -> None:
        self.collapse = words
        self.show({"collapse": words})
        if self.metrics:
            self.metrics.tag({"contray.collapse": words})
        self.audience.tell("collapsed", step, words)

    def trouble(self, what: str, words: str) -> None:
        """Something must be known outside (`words` "": no longer): said by the driver at once, and kept in the run's tags.

        From any thread. MLflow is not asked to keep that it does not answer.
        """
        if self._troubles.get(what) == words:  # a first "" passes: an earlier worker may have told of trouble
            return
        self._troubles[what] = words
        step, since = self._safe
        safe = f"the last durable checkpoint is of step {step}, {lasting(time.monotonic() - since)} ago"
        told = words and f"{words} ({safe if step >= 0 else 'there is no durable checkpoint yet'})"
        # damage is found before the run knows which checkpoint it goes on from; its words name that, and so do those of a failed write
        if what == "damage" or what.startswith("listener ") or NONE_YET in words or NEWEST in words:
            told = words
        if self.metrics and what != "mlflow":
            self._tag(time.strftime("%Y-%m-%d %H:%M:%S, ") + told if words else "")
        self.audience.tell("trouble", what, words)
        with contextlib.suppress(UserError):  # a lost lease: the training thread hears of it as well
            self._show({f"{TROUBLES}{what}": told if what != "mlflow" else words})

    def _tag(self, newest: str = "") -> None:
        """Keep all trouble there is in the tag, the newest in its own words."""
        others = [words for what, words in self._troubles.items() if words and what != "mlflow" and words not in newest]
        tag = "; ".join([*filter(None, [newest]), *others])[:TAG_CHARS]
        if self.metrics and tag != self._tagged:
            self._tagged = tag
            self.metrics.tag({TROUBLE: tag})

    def durable(self, step: int) -> None:
        self._safe = (step, time.monotonic())
        if self.metrics:
            self.metrics.durable(step)
        self.audience.tell("durable", step)
        if self._troubles.get("checkpoint"):
            self.trouble("checkpoint", "")
        with contextlib.suppress(UserError):
            self._show({"durable": step})

    def pending(self) -> list[tuple[str, float, int, int]]:
        return self.metrics.pending() if self.metrics else []

    def stop(self) -> bool:
        return self._asked.stop

    def hurry(self) -> bool:
        if time.monotonic() - self._heard > HEAR_SECONDS:
            self.show({})
        return self._asked.save


def work(
    job: TrainingJob, show: Callable[[dict[str, Any]], Asked], start: Mapping[str, Any] | None = None, offer: bool = False
) -> dict[str, Any]:
    """Train one rank of a run to its end. Rank 0 returns what there is to say, in plain values.

    `show` takes progress messages and says what is asked of the run. start: a state to go on from in place of the newest
    checkpoint. offer: messages of an evaluation carry `save`, which gives the state that a checkpoint would hold.
    """
    torch.set_num_threads(job.threads)
    name_code(*job.code)
    remember(job.logins)
    config = RunConfig.from_yaml(job.config)
    rank = dist.get_rank() if world_size() > 1 else 0
    source = data.open_source(config)
    storage = Fenced(job.storage, job.token, job.lease)
    total = config.total_steps(len(source.train))
    recorder = Recorder(
        job.run if rank == 0 else None, total, show if rank == 0 else lambda message: Asked(), offer, storage.check,
        config.track.listeners if rank == 0 else (), config.data.source, config if job.final == "test" else None,
    )  # fmt: skip
    ended, status = dict[str, Any](), "failed"
    try:
        name = job.name or storage.name
        run_id, url = (job.run.run_id, job.run.url) if job.run else ("", "")
        recorder.audience.tell("begin", Run(name, config, len(source.train), total, storage.address, run_id, url))
        ended = _work(job, config, source, storage, recorder, start)
        status = "finished" if ended.get("finished") else "stopped"
        return ended
    except (KeyboardInterrupt, SystemExit):  # the user, and Tune's schedulers
        status = "stopped"
        raise
    finally:
        if rank == 0:
            recorder.audience.close(status, ended.get("step", recorder.step), dict(ended.get("metrics", {})))


def _work(
    job: TrainingJob,
    config: RunConfig,
    source: data.Source,
    storage: Fenced,
    recorder: Recorder,
    start: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The part of `work` that listeners are told of."""
    memory = Peak(model.device_of(config))
    try:
        outcome = train(config, source, storage, recorder, start)
    except Collapsed:
        if recorder.metrics:
            close(recorder.metrics, storage, CLOSE_SECONDS)  # the curves that led there are what one wants to see now
        raise
    if world_size() > 1 and dist.get_rank() != 0:
        if outcome.finished and config.eval.final:
            Crew(config, source, model.device_of(config), shared=True).follow(outcome.method)
        return {}
    peak = memory.gigabytes  # before evaluations, which take what they like
    metrics, unmeasured = Measured({}), ""
    if outcome.finished and config.eval.final:
        recorder.show({"phase": "measuring"})
        metrics, unmeasured = _measure(config, source, storage, outcome, job.final)
        if unmeasured and job.run is not None:
            try:
                job.run.set_tags({UNMEASURED: unmeasured})
            except TrackingError as error:
                print(f"contray: the tag {UNMEASURED} was not recorded ({error})", flush=True)
        if recorder.metrics:
            recorder.metrics.log(outcome.step, {**metrics, **metrics.about})
            recorder.metrics.durable(outcome.step)
        recorder.audience.tell("log", outcome.step, {**metrics, **metrics.about})
    unsent = close(recorder.metrics, storage, CLOSE_SECONDS) if recorder.metrics else 0
    verdict = (
        _judge(job, config, source, storage, recorder, outcome, metrics)
        if metrics and not unmeasured and job.final == "test"
        else ""
    )
    kept = job.run is None or job.final != "test" or _keep_artifacts(job.run, config, source, outcome, metrics)
    return {
        "step": outcome.step,
        "finished": outcome.finished,
        "metrics": dict(metrics),
        "about": metrics.about,
        "verdict": verdict,
        "tested": source.tested,
        "worlds": outcome.worlds,
        "seconds": outcome.seconds,
        "images_per_second": outcome.images_per_second,
        "memory_gb": peak,
        "broken": {source.train.describe(i): reason for i, reason in outcome.broken.items()},
        "unsent": unsent,
        "artifacts": kept,
        "unmeasured": unmeasured,
        "broken_test": {} if source.test is None else {source.test.describe(i): reason for i, reason in source.test.met.items()},
        "labelled": source.train.labels is not None,
    }


def _measure(config: RunConfig, source: data.Source, storage: Storage, outcome: Outcome, final: str) -> tuple[Measured, str]:
    """The verdict, for which all ranks encode, kept beside the checkpoints: a run that dies while recording it does not open the test set again.

    Training is done and its checkpoint safe: what keeps a run from being measured is said in the second value, and loses nothing. A trial that
    cannot be measured cannot be ranked: that is raised.
    """
    from ..evaluation.common.run import finals

    subject = Subject(
        config, outcome.method, model.device_of(config), tests=final == "test", given=source, shared=True, keeps=True
    )
    with subject.crew.leading():
        try:
            if known := sealed.read(storage, VERDICT, sealed.NUMBER):
                return Measured(known), ""
        except sealed.Damaged as error:
            print(f"contray: {error}; the same weights are measured again", flush=True)
        metrics, problem = finals(subject)
        if problem:
            return metrics, problem.encode(errors="backslashreplace").decode()[:1000]  # as a tag can hold it
        sealed.write(storage, VERDICT, {**metrics, **metrics.about})
        subject.forget()
        return metrics, ""


def _judge(
    job: TrainingJob,
    config: RunConfig,
    source: data.Source,
    storage: Storage,
    recorder: Recorder,
    outcome: Outcome,
    metrics: Measured,
) -> str:
    """The verdict in words, kept as a tag of the run; its curve is MLflow's, which has that of the run's earlier lives, else this one's."""
    points = dict(recorder.curve)
    if job.run is not None:
        with contextlib.suppress(TrackingError):
            points = {**dict(job.run.history(CURVE)), **points}
    per_epoch = max(1, len(source.train) // config.train.batch_size)
    curve = [(step / per_epoch, value) for step, value in sorted(points.items()) if step]
    told = advice(config, source, outcome.method, storage, job.name, recorder.collapse)
    said = words(metrics, curve, told)
    if said and job.run is not None:
        try:
            job.run.set_tags({TOLD: said[:TAG_CHARS]})
        except TrackingError as error:
            print(f"contray: the tag {TOLD} was not recorded ({error})", flush=True)
    return said


def _keep_artifacts(
    run: TrackedRun, config: RunConfig, source: data.Source, outcome: Outcome, metrics: Mapping[str, float]
) -> bool:
    """Whether all were kept. An outage is said, not raised: training is done and its checkpoint safe."""
    ended = Ended(config, outcome.step, outcome.worlds, outcome.finished, metrics)
    try:
        artifacts.keep(run, ended, lambda: source, lambda: outcome.method)
    except (TrackingError, OSError) as error:
        print(f"contray: artifacts were not recorded ({error}); `contray sync` makes them from the checkpoint", flush=True)
        return False
    return True
