"""Which of the searched keys mattered: functional ANOVA, beside what chance gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..storage import sealed
from ..storage.folder import Storage
from .domains import distribution
from .outcome import Trial
from .trial import REPORTS

LEAST = 8  # trials: below, chance explains all
SHUFFLES = 19  # a share above all of them is one that chance gives in 1 of 20
REACHED = 0.9  # share of the trials that came to the point at which all are compared


@dataclass(frozen=True)
class Importance:
    """Of each key the share of a metric's variance over `trials` trials that it explains, alone and together with others; shares sum to 1.

    Functional ANOVA of a random forest (Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html; Optuna's). chance: the most that
    the key is given where the values are shuffled over the trials, in SHUFFLES shuffles: forests of few trials explain noise by something.
    progress: per cent of a run at which the trials were compared.
    """

    metric: str
    shares: Mapping[str, float]
    chance: Mapping[str, float]
    trials: int
    progress: int = 100

    @property
    def words(self) -> str:
        """What it stands on."""
        where = f" at {self.progress} % of a run, which stopped ones reached too" if self.progress < 100 else ""
        return f"{self.metric} of {self.trials} trials{where}; chance: the most of {SHUFFLES} shuffles of the values"


def importance(trials: Sequence[Trial], space: Mapping[str, Any], metric: str, online: str) -> Importance | None:
    """Of the keys of `space` for `metric`, the largest first; for `online` where a scheduler has stopped trials, at the last point that most came to:
    finished trials alone would be those that the scheduler let live. None where too few trials have a value, or nothing differs.
    """
    values, name, progress = _alike(trials, metric, online)
    keys = [key for key in space if len({str(trials[place].params.get(key)) for place in values}) > 1]
    if len(values) < LEAST or len(keys) < 2 or len(set(values.values())) < 2:
        return None
    domains = {key: distribution(space[key]) for key in keys}
    params = [{key: trials[place].params[key] for key in keys} for place in values]
    shares = _fanova(params, list(values.values()), domains)
    chance = dict.fromkeys(keys, 0.0)
    import numpy as np

    rng = np.random.default_rng(0)
    for _ in range(SHUFFLES):
        shuffled = _fanova(params, rng.permutation(list(values.values())).tolist(), domains)
        chance = {key: max(chance[key], shuffled[key]) for key in keys}
    ordered = sorted(keys, key=lambda key: -shares[key])
    return Importance(name, {key: shares[key] for key in ordered}, chance, len(values), progress)


def _alike(trials: Sequence[Trial], metric: str, online: str) -> tuple[dict[int, float], str, int]:
    """(value by the place of its trial, of which metric, at which per cent of a run), measured alike of all of them."""
    ended = {
        place: each.metrics[metric]
        for place, each in enumerate(trials)
        if each.status == "finished" and math.isfinite(each.metrics.get(metric, math.nan))
    }
    if not any(each.status == "stopped" for each in trials):
        return ended, metric, 100
    curves = {place: curve for place, each in enumerate(trials) if each.status != "failed" and (curve := _curve(each, online))}
    for progress in sorted({at for curve in curves.values() for at in curve}, reverse=True):
        reached = {place: curve for place, curve in curves.items() if max(curve) >= progress and min(curve) <= progress}
        if len(reached) >= REACHED * len(curves):
            values = {place: curve[max(at for at in curve if at <= progress)] for place, curve in reached.items()}
            return values, online, progress
    return ended, metric, 100


def _curve(trial: Trial, online: str) -> dict[int, float]:
    """What the trial told its scheduler: per cent of its steps -> value."""
    try:
        told = (sealed.read(Storage(trial.folder), REPORTS, {"reports": list}) or {}).get("reports", [])
    except sealed.Damaged:
        return {}
    return {int(each["progress"]): float(each[online]) for each in told if online in each}


def _fanova(params: Sequence[Mapping[str, Any]], values: Sequence[float], domains: Mapping[str, Any]) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for each, value in zip(params, values, strict=True):
        study.add_trial(optuna.trial.create_trial(params=dict(each), distributions=dict(domains), value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(found.get(key, 0.0)) for key in domains}
