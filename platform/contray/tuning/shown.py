"""A sweep as tables: its trials, ranked, and for a study over seeds the mean of each value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..tables import Table
from ..training.describing import short_keys, trial_name
from ..training.result import spread
from .ranking import COSTS

if TYPE_CHECKING:
    from .importance import Importance
    from .outcome import SweepResult

SCORES = {"knn_val_top1": "k-NN val", "linear_val_top1": "linear val", "rankme": "RankMe"}


def shown(result: SweepResult) -> list[Table | str]:
    """The ranked trials, for a study over seeds the mean of each value, and the winner on the test set."""
    keys, against = list(result.space), result.against
    known = dict.fromkeys(
        [*SCORES, *(name for trial in result.trials if trial is not result.best for name in trial.metrics), result.metric]
    )
    for name in COSTS:
        known.pop(name, None)
    scores = [name for name in (*known, against) if name and any(name in trial.metrics for trial in result.trials)]
    heads = ("rank", "trial", *short_keys(keys), *(SCORES.get(name, name) for name in scores), *(["front"] if against else []))
    title = f"{result.name}: ranked on {result.metric}{f', against {against}' if against else ''}"
    table = Table(title, *heads, "status", "MLflow run")
    for rank, trial in enumerate(result.trials, 1):
        cells = [f"{_scale(name) * trial.metrics[name]:.{_digits(name)}f}" if name in trial.metrics else "-" for name in scores]
        cells += ["*" if trial.name in result.front else ""] if against else []
        values = [
            f"{value:.4g}" if isinstance(value, float) else str(value) for value in (trial.params.get(key, "") for key in keys)
        ]
        status = trial.status if not trial.problem else f"{trial.status}: {trial.problem}"
        table.add(str(rank), trial_name(trial.name), *values, *cells, status, trial.run_id[:8])
    study = [_study(result, [key for key in keys if key != "seed"])] if "seed" in keys else []
    return [table, *study, *map(_importance, result.importance), _winner(result)]


def _importance(found: Importance) -> Table:
    """Of each key what it explains of a metric's variance, beside what chance would give it."""
    table = Table(
        f"what mattered for {found.metric}, in per cent of its variance", "key", "explained", "by chance", "", left=(0, 3)
    )
    for key, value in found.shares.items():
        word = "more than chance" if value > found.chance[key] else ""
        table.add(key, f"{100 * value:.0f}", f"{100 * found.chance[key]:.0f}", word)
    table.caption = found.words
    return table


def _winner(result: SweepResult) -> str:
    best = result.best
    if not best:
        return "no trial finished: there is nothing to rank"
    tested = ", ".join(
        f"{name} {100 * best.metrics[name]:.1f} %"
        for name in ("knn_top1", "linear_top1", "random_linear_top1")
        if name in best.metrics
    )
    count = int(best.metrics.get("test_images", 0))
    where = f"{count:,} test images" if count else "the test set"
    name = trial_name(best.name)
    return f"best trial  {name}: {tested} on {where}" if tested else f"best trial  {name}"


def _study(result: SweepResult, keys: Sequence[str]) -> Table:
    """Mean and standard deviation over seeds of each value, and whether the values differ by more than the seeds do."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for trial in result.trials:
        if trial.status == "finished" and result.metric in trial.metrics:
            groups.setdefault(tuple(trial.params[key] for key in keys), []).append(trial.metrics[result.metric])
    scale, unit = _scale(result.metric), " points" if _scale(result.metric) == 100 else ""
    table = Table(f"{result.metric} over seeds{', in per cent' if unit else ''}", *keys, "seeds", "mean", "std")
    for values in sorted(groups, key=lambda values: [*map(_order, values)]):
        mean, std = spread(groups[values])
        table.add(
            *map(str, values),
            str(len(groups[values])),
            f"{scale * mean:.1f}",
            f"{scale * std:.1f}" if len(groups[values]) > 1 else "-",
        )
    means = [spread(values)[0] for values in groups.values()]
    more = sum(len(values) - 1 for values in groups.values())
    pooled = math.sqrt(sum((len(values) - 1) * spread(values)[1] ** 2 for values in groups.values()) / max(more, 1))
    if means and more:
        ratio = f"{(max(means) - min(means)) / pooled:.1f} times" if pooled else "more than"
        table.caption = f"range over values {scale * (max(means) - min(means)):.1f}{unit} = {ratio} the standard deviation over seeds ({scale * pooled:.2f}{unit})"
    return table


def _order(value: Any) -> tuple[bool, Any]:
    """Words before numbers, which one key may both have."""
    number = isinstance(value, (int, float))
    return number, value if number else str(value)


def _digits(metric: str) -> int:
    return 2 if metric == "memory_gb" else 1


def _scale(metric: str) -> float:
    """What a metric is shown times: top-1 accuracies in per cent, a rank as it is."""
    return 100 if metric.endswith("top1") else 1
