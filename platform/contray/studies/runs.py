"""The runs that a study wants: which of them there are, whoever made them, and how long another one will take."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .. import data, model, track
from ..config import RunConfig
from ..config.auto import AUTO
from ..config.evaluations import load_evaluation
from ..config.registry import load_method, own_code
from ..errors import ConfigError, UserError
from ..evaluation.common.tables import GEOMETRY
from ..planning.facts import cluster_of
from ..storage.names import slug
from ..tables import SHARES
from ..training.preflight import check_config
from ..training.signature import TAG, signature
from ..training.start import marks, resolved, started
from ..tuning.ranking import COSTS
from .claims import spoken
from .form import NOT_FREE, Arm, Study

DIVERGED, MINUTES, CONDITIONS = "contray.diverged", "contray.minutes", "contray.conditions"  # tags of a run that a study made


@dataclass(frozen=True)
class Wanted:
    """A run that a study wants."""

    arm: Arm
    seed: int
    config: RunConfig
    signature: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{slug(Path(self.config.method.name).stem)}-{self.signature[:8]}"


@dataclass(frozen=True)
class Found:
    """A run that there is. metrics: as it ended, None for what is no number; diverged: why it has none; minutes: that it took, not a number where unknown."""

    run_id: str
    metrics: Mapping[str, float | None]
    minutes: float
    diverged: str = ""


def wanted(study: Study, scale: str, seeds: int, overrides: Mapping[str, Any]) -> list[Wanted]:
    """The runs of a study, the first seed of all arms first. Everything that can be refused of them is refused here."""
    for key in NOT_FREE:
        if key in overrides:
            raise ConfigError(key, "is the study's own to set; --seeds says how many seeds each arm has")
    sources: dict[Any, tuple[data.Source, dict[str, str]]] = {}
    arms: dict[Arm, tuple[RunConfig, dict[str, str]]] = {}
    for arm, config in study.arms(scale, overrides).items():
        if config.method.preset == AUTO:
            raise ConfigError(
                "method.preset",
                f"arm {spoken(arm)}: {AUTO} fits each run by itself; a study's arms differ in what they set alone",
            )
        if config.scale.workers[1] > 1:
            raise ConfigError(
                "scale.workers", "a study makes several runs at once, each in one process; leave it at 0 0, and say --jobs"
            )
        config, _ = started(resolved(config))
        if config.data not in sources:
            source = data.open_source(config)
            sources[config.data] = source, data.fingerprint(source, config.data)
        source, fingerprint = sources[config.data]
        try:
            check_config(config, source)
        except ConfigError as error:
            raise ConfigError(error.key, f"arm {spoken(arm)}: {error.problem}") from None
        arms[arm] = config, fingerprint | own_code(config) | marks(config)
    each = (
        (arm, seed, dataclasses.replace(config, seed=seed), known)
        for seed in range(seeds)
        for arm, (config, known) in arms.items()
    )
    made = [Wanted(arm, seed, config, signature(config, known)) for arm, seed, config, known in each]
    _check_apart(made)
    _check_measured(study, [config for config, _ in arms.values()])
    return made


def _check_apart(runs: Sequence[Wanted]) -> None:
    """Raises UserError where two arms are one and the same run: nothing can lie between them."""
    first: dict[str, Arm] = {}
    for each in runs:
        if (other := first.setdefault(each.signature, each.arm)) != each.arm:
            words = "their settings compute the same, or an option given to all arms takes their difference away"
            raise UserError(f"SPACE: the arms {spoken(other)} and {spoken(each.arm)} are the same run: {words}")


def _check_measured(study: Study, configs: Sequence[RunConfig]) -> None:
    """Raises UserError where no evaluation of any arm can give a metric that the study is about. Of one that ranks no trials nothing is known."""
    evaluations = dict.fromkeys(name for config in configs for name in config.eval.final)
    ranked = {name: load_evaluation(name).metrics for name in evaluations}
    if not all(ranked.values()):
        return
    stems = [re.escape(name.partition("_val_")[0]).replace(r"\*", ".*") for names in ranked.values() for name in names]
    plain = {*COSTS, *GEOMETRY, *(name for config in configs for name in load_method(config.method.name).metrics)}
    for metric in study.metrics:
        of_evaluation = metric.endswith(SHARES) and any(re.search(rf"(?:^|[_.]){stem}_", metric) for stem in stems)
        if not of_evaluation and metric.removeprefix("random_") not in plain:
            known = ", ".join(dict.fromkeys(name.replace("_val_", "_") for metrics in ranked.values() for name in metrics))
            said = f"METRIC, EXPECT: got the metric {metric}, which no run of {study.name} measures"
            raise UserError(f"{said}: eval.final {' '.join(ranked)} gives {known}")


def precision_of(config: RunConfig) -> str:
    """What this machine takes train.precision for, where a run leaves that to the hardware; empty where a cluster's nodes decide, or it is given."""
    if config.train.precision != "auto" or cluster_of(config):
        return ""
    return model.settled(config, model.device_of(config).type).train.precision


def found(
    uri: str, experiment: str, signatures: Sequence[str], conditions: str, needed: bool, precision: str = ""
) -> dict[str, Found]:
    """The ended runs of an experiment by their signatures, the newest of each.

    conditions: under which a run must have been made for its COSTS to count; needed: runs that were made under others do not count at all.
    precision: what all must have been computed in, where it was left to their hardware: arms in fp32 and bf16 differ by more than many claims.
    """
    path = track.sqlite_path(uri)
    if path and not path.exists():
        return {}
    made: dict[str, Found] = {}
    with track.asking(uri, "looking for runs that there are") as talk:
        place = talk.get_experiment_by_name(experiment)
        for each in dict.fromkeys(signatures) if place else ():
            assert place
            runs = talk.search_runs(
                [place.experiment_id], f"tags.`{TAG}` = '{each}'", max_results=20, order_by=["attributes.start_time DESC"]
            )
            ended = (_found(run, conditions, needed) for run in runs if _in_precision(run, precision))
            if run := next((run for run in ended if run), None):
                made[each] = run
    return made


def _in_precision(run: Any, wanted: str) -> bool:
    return not wanted or run.data.params.get("train.precision", "auto") in (wanted, "auto")


def _found(run: Any, conditions: str, needed: bool) -> Found | None:
    """A run that has ended with what it has to say."""
    tags, alike = run.data.tags, run.data.tags.get(CONDITIONS) == conditions
    minutes = float(tags.get(MINUTES, "nan"))
    if tags.get(DIVERGED):
        return Found(run.info.run_id, {}, minutes, tags[DIVERGED])
    if run.info.status != "FINISHED" or tags.get("contray.unmeasured") or tags.get(track.INEXACT) or (needed and not alike):
        return None
    metrics = {name: value if math.isfinite(value) else None for name, value in run.data.metrics.items()}
    return Found(run.info.run_id, {name: value for name, value in metrics.items() if name not in COSTS or alike}, minutes)


class Pace:
    """How long a run will take, in minutes: as those of its arm did, else those of other arms, else as the study's COST says."""

    def __init__(self, study: Study, scale: str, runs: Sequence[Wanted], known: Mapping[str, Found]) -> None:
        arms = len({each.arm for each in runs})
        self.stated = study.minutes(scale, 1) / arms if arms else math.nan
        self.by_arm: dict[Arm, list[float]] = {}
        for each in runs:
            if each.signature in known:
                self.took(each.arm, known[each.signature].minutes)

    def took(self, arm: Arm, minutes: float) -> None:
        """A run of the arm took so long."""
        if math.isfinite(minutes):
            self.by_arm.setdefault(arm, []).append(minutes)

    def of(self, arm: Arm) -> float:
        """What the next run of an arm is expected to take; not a number where nothing tells."""
        every = [each for minutes in self.by_arm.values() for each in minutes]
        return median(self.by_arm[arm]) if self.by_arm.get(arm) else median(every) if every else self.stated


def check_metric(study: Study, known: Mapping[str, Found], whole: bool) -> None:
    """Raises UserError where ended runs measured nothing that the study decides by: its METRIC is written wrongly, or eval.final lacks who gives it.

    whole: all runs are there, so that the metrics of EXPECT must be, too.
    """
    ended = [each for each in known.values() if not each.diverged]
    asked = [metric for metric in study.metrics if whole and metric not in COSTS] or [study.metric]
    lacking = [metric for metric in asked if not any(metric in each.metrics for each in ended)]
    if ended and lacking:
        names = sorted(
            {name for each in ended for name in each.metrics if name.endswith(("top1", "rankme", "alignment", "uniformity"))}
        )
        raise UserError(
            f"study {study.name}: METRIC, EXPECT: no run measured {lacking[0]}; they measured {', '.join(names)}, ...: eval.final names who does"
        )
