"""A study from its file to its verdict: the runs that there are, the runs that it lacks, what the seeds say, and one run of MLflow's that keeps it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import data, track
from ..config import RunConfig
from ..config.spaces import study_names
from ..errors import UserError
from ..storage.folder import Storage
from ..storage.names import slug
from ..training.describing import NOTE
from ..training.lease import Held, Lease, held
from ..training.preflight import check_surroundings
from ..training.ray_train import ray_session
from ..training.records import TAG_CHARS, tags_of
from ..training.stop import Status, ending
from ..tuning.outcome import end_trials
from ..tuning.ranking import COSTS
from .claims import spoken
from .form import Study, load_study
from .listing import DECLARED, FREE, judged
from .result import StudyResult, Summary
from .rounds import Made, at_once_of, make_all
from .runs import Found, Pace, Wanted, check_metric, found, precision_of, wanted
from .trial import conditions
from .verdict import judge

COMMIT, LEFT = "mlflow.source.git.commit", "contray.left"
RESULT, TABLE, PICTURE = "study.json", "table.md", "picture.png"
WRAP_SECONDS, WRAP_SHARE = 20.0, 0.1  # of a budget are left for the verdict and its picture, whichever is less


@dataclass(frozen=True)
class StudyPlan:
    """A study that is about to run: what it wants, what there is, where all is kept."""

    study: Study
    scale: str
    runs: Sequence[Wanted]
    known: Mapping[str, Found]
    settings: Mapping[str, Any]
    jobs: int
    seeds: int

    @property
    def config(self) -> RunConfig:
        """Of the first run: where all runs are kept."""
        return self.runs[0].config

    @property
    def todo(self) -> list[Wanted]:
        """The runs that are still to be made, each once, in their order."""
        first = {each.signature: each for each in reversed(self.runs)}
        return [each for each in self.runs if first[each.signature] is each and each.signature not in self.known]

    @property
    def costs(self) -> bool:
        """Whether its verdict goes by time or memory."""
        return bool(set(self.study.metrics) & COSTS.keys())

    @property
    def pace(self) -> Pace:
        return Pace(self.study, self.scale, self.runs, self.known)

    def minutes(self, at_once: int) -> float:
        """That the runs which are left will take, so many at once; not a number where nothing tells. No fewer than the longest of them."""
        each = [self.pace.of(one.arm) for one in self.todo]
        return max(sum(each) / at_once, max(each, default=0.0))

    @property
    def name(self) -> str:
        """Of its folder: the same for any number of seeds."""
        first = [each.signature for each in self.runs if each.seed == 0]
        return f"study-{slug(self.study.name)}-{self.scale}-{hashlib.sha256(' '.join(first).encode()).hexdigest()[:8]}"

    @property
    def plain(self) -> bool:
        """Whether it runs as its file says; data of one's own are, but for the built-in digits, no departure."""
        free = FREE if self.scale != "digits" else tuple(key for key in FREE if key != "data.source")
        return all(key.startswith(free) for key in self.settings)

    def look(self) -> StudyPlan:
        """The same, with the runs that there are by now."""
        config = self.config
        signatures = [each.signature for each in self.runs]
        return replace(
            self,
            known=found(
                track.resolve_uri(config.track.uri),
                config.track.experiment,
                signatures,
                conditions(self.jobs),
                self.costs,
                precision_of(config),
            ),
        )


def plan(name: str, overrides: Mapping[str, Any], *, scale: str = "digits", seeds: int = 0, jobs: int = 0) -> StudyPlan:
    """What a study would do. Everything that can be refused is refused here, before Ray starts."""
    for option, value in (("seeds", seeds), ("jobs", jobs)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UserError(f"--{option}: got {value!r}, must be a whole number, at least 0")
    study = load_study(name)
    seeds = seeds or study.seeds
    made = StudyPlan(study, scale, wanted(study, scale, seeds, overrides), {}, dict(overrides), jobs, seeds)
    return made.look()


def study(
    name: str, overrides: Mapping[str, Any], *, scale: str = "digits", seeds: int = 0, minutes: float = 0.0, jobs: int = 0, quiet: bool = False,
) -> StudyResult:  # fmt: skip
    """Run a study, or go on with it; see `contray study --help` for the options. minutes: that it may take; 0: as long as it takes."""
    began = time.monotonic()
    return _run(plan(name, overrides, scale=scale, seeds=seeds, jobs=jobs), began, minutes, quiet)


def study_all(
    overrides: Mapping[str, Any], *, scale: str = "digits", seeds: int = 0, minutes: float = 0.0, jobs: int = 0, quiet: bool = False,
) -> Summary:  # fmt: skip
    """Run all studies that have the scale: those without a verdict first, of these the cheapest, and so on as long as time suffices; then a part
    of those that it does not suffice for, for the next call to go on with. A study that cannot be run is named, and the others go on.
    """
    began = time.monotonic()
    summary = Summary()

    def left() -> float:
        """Minutes."""
        return minutes - (time.monotonic() - began) / 60 if minutes else math.inf

    plans: list[StudyPlan] = []
    for name in study_names():
        with _noted(summary, name):
            if scale in load_study(name).scales:
                plans.append(plan(name, overrides, scale=scale, seeds=seeds, jobs=jobs))
    if not plans:
        raise UserError(next(iter(summary.failed.values()), f"--scale: no study has the scale {scale}"))
    at_once = at_once_of(plans[0].config, jobs)
    where = plans[0].config.track
    verdicts = judged(track.resolve_uri(where.uri), where.experiment, [each.study for each in plans])
    judged_by_now = {key for key, run in verdicts.items() if run.data.tags.get(LEFT) == "0"}
    order = sorted(
        plans, key=lambda each: ((each.study.name, scale) in judged_by_now, _finite(each.minutes(at_once)), each.study.name)
    )
    with ray_session(plans[0].config) if any(each.todo for each in plans) else contextlib.nullcontext():
        for whole in (True, False):
            for each in [each for each in order if each.study.name not in summary.told]:
                each = each.look()  # runs of the studies before are its too
                fits = _finite(each.minutes(at_once)) < left() - WRAP_SECONDS / 60
                if summary.interrupted or not (fits if whole else left() > 2 * WRAP_SECONDS / 60):
                    continue
                with _noted(summary, each.study.name):
                    summary.results.append(_run(each, time.monotonic(), 0.0 if math.isinf(left()) else left(), quiet))
    summary.not_reached = [each.study.name for each in order if each.study.name not in summary.told]
    summary.minutes = (time.monotonic() - began) / 60
    return summary


# ---------------------------------------------------------------- one study, under its lease


@contextlib.contextmanager
def _noted(summary: Summary, name: str) -> Iterator[None]:
    """Why a study cannot be run does not keep the others from it."""
    try:
        yield
    except UserError as error:
        summary.failed[name] = str(error)


def _run(plan: StudyPlan, began: float, minutes: float, quiet: bool) -> StudyResult:
    config, storage = plan.config, Storage(plan.config.scale.storage)
    check_surroundings(config)
    storage.create()
    home = storage / plan.name
    home.create()
    ends = began + 60 * minutes - min(WRAP_SECONDS, WRAP_SHARE * 60 * minutes) if minutes else math.inf
    with contextlib.ExitStack() as stack:
        try:
            lease = stack.enter_context(held(home, quiet))
        except Held as error:
            after = "wait for its end, the same command then answers from its runs"
            raise UserError(f"study {plan.study.name}: is being run by {error.who}; {after}") from None
        source = data.open_source(config)
        tags = tags_of(config, source, plan.name)
        parent, seeds = _parent(plan, tags)
        if seeds > plan.seeds:
            more = replace(plan, runs=wanted(plan.study, plan.scale, seeds, plan.settings), seeds=seeds).look()
            plan = plan if more.todo else more
        if not quiet:
            print(f"{plan.study.name} at scale {plan.scale}: {_outlook(plan)}; {parent.url}", flush=True)
        result: list[StudyResult] = []

        def end(status: Status) -> None:
            lease.check()
            with contextlib.suppress(track.TrackingError):
                end_trials(parent)
                parent.finish(status)

        with ending(lambda: parent.finish("KILLED"), end) as how:
            made = _make(plan, parent, storage, lease, ends, quiet) if _begins(plan, ends) else Made()
            plan = plan.look()
            check_metric(plan.study, plan.known, not plan.todo)
            result.append(_result(plan, made, parent, tags.get(COMMIT, ""), (time.monotonic() - began) / 60))
            result[0] = _keep(result[0], parent, home, plan)
            how.status = "KILLED" if made.interrupted else "FINISHED"
    return result[0]


def _begins(plan: StudyPlan, ends: float) -> bool:
    """Whether time suffices for any run that is left: else Ray need not start."""
    left = (ends - time.monotonic()) / 60
    return left > 0 and any(not plan.pace.of(each.arm) > left for each in plan.todo)


def _make(plan: StudyPlan, parent: track.TrackedRun, storage: Storage, lease: Lease, ends: float, quiet: bool) -> Made:
    with ray_session(plan.config):
        return make_all(
            plan.study.name,
            plan.name,
            plan.todo,
            parent.run_id,
            storage,
            plan.pace,
            lease,
            jobs=plan.jobs,
            ends=ends,
            quiet=quiet,
        )


def _outlook(plan: StudyPlan) -> str:
    """What there is and what is to be made, in words."""
    arms, todo = len({each.arm for each in plan.runs}), len(plan.todo)
    words = f"{arms} arms, {plan.seeds} seed{'s' * (plan.seeds > 1)}"
    return f"{words}, {todo} runs to make" if todo else f"{words}, all runs are there"


def _parent(plan: StudyPlan, about: Mapping[str, str]) -> tuple[track.TrackedRun, int]:
    """The study's own run in MLflow: a new one, or that of these arms, which goes on; and the seeds of the verdict that it has, 0 without one."""
    config, study = plan.config, plan.study
    uri = track.resolve_uri(config.track.uri)
    apart = ("contray.differs", "contray.group", "contray.given")
    tags = {key: value for key, value in about.items() if key not in apart}
    tags |= {
        "contray.kind": "study",
        "contray.study": study.name,
        "contray.scale": plan.scale,
        "contray.claim": study.claim[:TAG_CHARS],
    } | ({DECLARED: study.digest(plan.scale)} if plan.plain else {})
    params = {
        "study": study.name, "scale": plan.scale, "method": study.method, "metric": study.metric, "source": study.source,
        "arms": "; ".join(spoken(arm) for arm in dict.fromkeys(each.arm for each in plan.runs)), **plan.settings,
    }  # fmt: skip
    with track.asking(uri, f"looking for {plan.name}") as talk:
        place = talk.get_experiment_by_name(config.track.experiment)
        before = place and talk.search_runs([place.experiment_id], f"tags.`contray.name` = '{plan.name}'", max_results=1)
    run_id = before[0].info.run_id if before else None
    known = before[0].data.tags if before else {}
    seeds = int(known.get("contray.seeds", 0)) if known.get(LEFT) == "0" else 0
    title = f"study {study.name} at scale {plan.scale}"
    return track.begin(uri, config.track.experiment, title, params=params, tags=tags, run_id=run_id), seeds


def _result(plan: StudyPlan, made: Made, parent: track.TrackedRun, commit: str, minutes: float) -> StudyResult:
    values: dict[Any, dict[int, dict[str, float | None]]] = {each.arm: {} for each in plan.runs}
    notes: dict[Any, dict[int, str]] = {}
    runs: dict[Any, dict[int, str]] = {}
    for each in plan.runs:
        known = plan.known.get(each.signature)
        if known:
            runs.setdefault(each.arm, {})[each.seed] = known.run_id
            values[each.arm][each.seed] = dict(known.metrics) if not known.diverged else {plan.study.metric: None}
        words = known.diverged if known else made.failed.get(each.signature, "")
        if known and not known.diverged and plan.study.metric not in known.metrics:
            words = f"run {known.run_id} did not measure {plan.study.metric}"
        if words:
            notes.setdefault(each.arm, {})[each.seed] = words
    verdict = judge(plan.study.expect, values, plan.study.metric)
    return StudyResult(
        plan.study, plan.scale, values, notes, verdict, runs, minutes, parent.uri, parent.run_id, parent.url,
        settings=plan.settings, left=len(plan.todo), commit=commit, interrupted=made.interrupted,
    )  # fmt: skip


def _keep(result: StudyResult, parent: track.TrackedRun, home: Storage, plan: StudyPlan) -> StudyResult:
    """Draw the picture and keep everything: as files in the study's folder, and with its run in MLflow."""
    from .picture import draw

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / PICTURE
        draw(result.study, result, picture)
        home.write(PICTURE, picture.read_bytes())
        result = replace(result, picture=Path(home.root) / PICTURE if home.local else None)
        texts = {RESULT: json.dumps(result.as_json(), indent=1, ensure_ascii=False), TABLE: result.markdown()}
        for name, text in texts.items():
            home.write(name, text.encode())
            (Path(folder) / name).write_text(text)
        try:
            for name in (PICTURE, *texts):
                parent.log_artifact(Path(folder) / name)
            parent.set_tags(
                {
                    "contray.verdict": result.verdict.word, "contray.seeds": str(plan.seeds), LEFT: str(result.left),
                    NOTE: f"**{result.study.claim}** ({result.study.source})\n\n{result.markdown()}"[:TAG_CHARS],
                }
            )  # fmt: skip
            parent.log_metrics(_means(result), step=plan.seeds)
            first = next((run_id for runs in result.runs.values() for run_id in runs.values()), "")
            if first:
                parent.share_inputs(first)
        except track.TrackingError as error:
            print(f"contray: {error}; the study's result is in {home.address}", flush=True)
    return result


def _means(result: StudyResult) -> dict[str, float]:
    """METRIC of each arm, the mean over seeds, by a name that MLflow takes."""
    found = {arm: list(result.seeds_of(arm).values()) for arm in result.values}
    metric = result.study.metric
    return {
        f"{metric}/{re.sub(r'[^A-Za-z0-9_. -]', '_', spoken(arm))}": sum(each) / len(each) for arm, each in found.items() if each
    }


def _finite(minutes: float) -> float:
    return minutes if math.isfinite(minutes) else 0.0
