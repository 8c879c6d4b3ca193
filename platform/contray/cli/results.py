"""Tables for people, and the same facts as JSON for scripts."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..config import RunConfig
from ..config.registry import load_method, load_space, method_names, space_names
from ..evaluation.common.tables import GEOMETRY, geometry_table, share, tables_of
from ..tables import Table
from .output import show

if TYPE_CHECKING:
    from ..training.launch import Result
    from ..tuning import SweepResult

SCORED = ("knn_top1", "linear_top1", "knn_val_top1", "linear_val_top1")  # what the table of a run's verdict has


def show_result(config: RunConfig, result: Result) -> None:
    """The verdict of one run and where to look on."""
    from ..evaluation import Measured
    from ..evaluation._base import ENCODERS
    from ..evaluation.common.protocol import report

    details = result.details
    if not result.finished:
        show(f"stopped at step {result.step} with a checkpoint; the same command goes on from there")
        return
    if not details["labelled"]:
        show(f"{config.data.source} has no labels: the encoder is trained, and k-NN and linear probe have nothing to measure")
    tabled = {prefix + score for prefix in ENCODERS for score in SCORED}
    if tabled & result.metrics.keys():
        show(report({**result.metrics, **details["about"]}, knn_k=config.parts["eval.knn"].k))
    elif GEOMETRY.keys() & result.metrics.keys():
        show(geometry_table(result.metrics))
    rest = {
        name: value
        for name, value in result.metrics.items()
        if name not in tabled and name.removeprefix("random_") not in GEOMETRY
    }
    if rest:
        show(*tables_of(Measured({**rest, **details["about"]})))
    for what, broken in (
        ("replaced a broken image", details["broken"]),
        ("left out a broken test image", details["broken_test"]),
    ):
        for name, reason in list(broken.items())[:5]:
            show(f"{what}: {name} ({reason})")
        if len(broken) > 5:
            show(f"... and {len(broken) - 5} more")
    rate = details["images_per_second"]
    pace = f", {rate:,.0f} images/s" if rate else ""  # none in a run that had only its verdict left
    show(
        f"trained {result.step} steps in {details['seconds']:.0f} s{pace}",
        f"checkpoint  {result.checkpoint}",
        f"MLflow run  {result.run_id}",
        f"see it      contray ui, then {result.url}" if "127.0.0.1:5000" in result.url else f"see it      {result.url}",
    )


def show_unsent(config: RunConfig, results: Sequence[Result]) -> None:
    """What MLflow did not take of these runs, and how to send it later; nothing where it took all."""
    from ..training.syncing import command

    for result in results:
        left = result.details.get("unsent", 0)
        if left or not result.details.get("artifacts", True):
            what = " and ".join(
                [f"{left} metric points"] * bool(left) + ["artifacts"] * (not result.details.get("artifacts", True))
            )
            print(f"contray: {what} did not reach MLflow; `{command(result.name, config)}` sends them", file=sys.stderr)


def show_unmeasured(results: Sequence[Result]) -> bool:
    """Say which of these runs were trained but could not be measured, why, and how to do it later; whether there are any."""
    unmeasured = [result for result in results if result.details.get("unmeasured")]
    for result in unmeasured:
        print(
            f"contray: {result.name} is trained, but not measured: {result.details['unmeasured']}; "
            f"`contray eval linear --run {result.run_id}` measures it",
            file=sys.stderr,
        )
    return bool(unmeasured)


def show_seeds(config: RunConfig, results: Sequence[Result]) -> None:
    """One row per seed, then mean and standard deviation."""
    names = ["knn_top1", "linear_top1", "random_linear_top1", "pixels_linear_top1"]
    if not any(name in result.metrics for name in names for result in results):  # no labelled test images
        names = [name.replace("_top1", "_val_top1") for name in names]
    names = [name for name in names if any(name in result.metrics for result in results)]
    table = Table(f"{results[0].name.rpartition('-s')[0]}: {len(results)} seeds", "seed", *names)
    for offset, result in enumerate(results):
        table.add(str(config.seed + offset), *(share(result.metrics.get(name)) for name in names))
    table.divide()
    known = [[result.metrics[name] for result in results if name in result.metrics] for name in names]
    table.add("mean ± std", *(f"{100 * mean:.1f} ± {100 * std:.1f}" for mean, std in map(_spread, known)))
    show(table, *(f"seed {config.seed + offset:<6} {result.url}" for offset, result in enumerate(results)))


def _spread(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1))


def method_rows() -> list[dict[str, Any]]:
    """The method table: one row per method, from the exports of its file."""
    rows = []
    for name in method_names():
        file = load_method(name)
        paper = file.paper
        rows.append(
            {
                "method": name, "year": paper.year, "paper": paper.title, "contrasts": paper.contrasts, "negatives": paper.negatives, "queue": paper.queue,
                "EMA": paper.ema, "predictor": paper.predictor, "crops": paper.crops, "presets": {key: preset.about for key, preset in file.presets.items()},
                "url": paper.url,
            }
        )  # fmt: skip
    return rows


def show_methods(rows: Sequence[Mapping[str, Any]]) -> None:
    """The methods and their presets."""
    table = Table(
        "contray train METHOD --preset PRESET", "method", "year", "contrasts", "negatives", "queue", "EMA", "predictor", "crops"
    )
    for row in rows:
        table.add(
            *(str(row[column]) for column in ("method", "year", "contrasts", "negatives", "queue", "EMA", "predictor", "crops"))
        )
    presets = Table("presets", "method", "preset", "what to expect", left=range(3))
    for row in rows:
        for preset, about in row["presets"].items():
            presets.add(row["method"], preset, about)
    show(table, presets, *(f"{row['method']}: {row['paper']}, {row['url']}" for row in rows))


def evaluation_rows() -> list[dict[str, Any]]:
    """The evaluations: what each measures, what it needs, and by which metrics trials can be ranked."""
    from ..config.evaluations import evaluation_names, load_evaluation

    return [
        {
            "evaluation": file.name, "about": file.about, "needs": file.needs, "ranks": file.metrics, "paper": file.paper.title,
            "year": file.paper.year, "url": file.paper.url, "keys": [f"{file.prefix}.{spec.name}" for spec in fields(file.config)],
        }
        for file in map(load_evaluation, evaluation_names())
    ]  # fmt: skip


def show_evaluations(rows: Sequence[Mapping[str, Any]]) -> None:
    """The evaluations and where they come from."""
    table = Table("contray eval EVALUATION --run RUN_ID", "evaluation", "measures", "needs", "ranks trials by", left=range(4))
    for row in rows:
        table.add(row["evaluation"], row["about"], ", ".join(row["needs"]), ", ".join(row["ranks"]))
    show(table, *(f"{row['evaluation']}: {row['paper']} ({row['year']}), {row['url']}" for row in rows))


def space_rows() -> list[dict[str, Any]]:
    """The search spaces: what each asks and over which keys."""
    from ..tuning.domains import describe_domain

    rows = []
    for name in space_names():
        space = load_space(name)
        rows.append(
            {
                "space": name,
                "method": space.METHOD,
                "about": space.ABOUT,
                "keys": {key: describe_domain(domain) for key, domain in space.SPACE.items()},
            }
        )
    return rows


def show_spaces(rows: Sequence[Mapping[str, Any]]) -> None:
    """The search spaces and what each asks."""
    table = Table("contray tune SPACE", "space", "method", "key", "over", left=range(4))
    for row in rows:
        for i, (key, over) in enumerate(row["keys"].items()):
            table.add(*((row["space"], row["method"]) if i == 0 else ("", "")), key, over)
        table.divide()
    show(table, *(f"{row['space']}: {row['about']}" for row in rows))


def show_sweep(result: SweepResult) -> None:
    """The ranked trials of a sweep, the winner and where to look on; for a study over seeds, the mean of each value too."""
    keys = list(result.space)
    known = dict.fromkeys(
        [*SCORES, *(name for trial in result.trials if trial is not result.best for name in trial.metrics), result.metric]
    )
    scores = [name for name in known if any(name in trial.metrics for trial in result.trials)]
    table = Table(
        f"{result.name}: ranked on {result.metric}", "rank", *keys, *(SCORES.get(name, name) for name in scores), "status"
    )
    for rank, trial in enumerate(result.trials, 1):
        shown = [f"{_scale(name) * trial.metrics[name]:.1f}" if name in trial.metrics else "-" for name in scores]
        values = [
            f"{value:.4g}" if isinstance(value, float) else str(value) for value in (trial.params.get(key, "") for key in keys)
        ]
        table.add(str(rank), *values, *shown, trial.status if not trial.problem else f"{trial.status}: {trial.problem}")
    show(table)
    if "seed" in keys:
        show(_study(result, [key for key in keys if key != "seed"]))
    if result.best:
        tested = ", ".join(
            f"{name} {100 * result.best.metrics[name]:.1f} %"
            for name in ("knn_top1", "linear_top1", "random_linear_top1")
            if name in result.best.metrics
        )
        count = int(result.best.metrics.get("test_images", 0))
        where = f"{count:,} test images" if count else "the test set"
        show(
            f"best trial  {result.best.name}: {tested} on {where}" if tested else f"best trial  {result.best.name}",
            f"its config  contray train --config {result.best_config}",
        )
    else:
        show("no trial finished: there is nothing to rank")
    show(f"plots       {result.plots}", f"compare     {result.url}", f"MLflow run  {result.parent_url}")


def _study(result: SweepResult, keys: Sequence[str]) -> Any:
    """Mean and standard deviation over seeds of each value, and whether the values differ by more than the seeds do."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for trial in result.trials:
        if result.metric in trial.metrics:
            groups.setdefault(tuple(trial.params[key] for key in keys), []).append(trial.metrics[result.metric])
    scale, unit = _scale(result.metric), " points" if _scale(result.metric) == 100 else ""
    table = Table(f"{result.metric} over seeds{', in per cent' if unit else ''}", *keys, "seeds", "mean", "std")
    for values in sorted(groups):
        mean, std = _spread(groups[values])
        table.add(*map(str, values), str(len(groups[values])), f"{scale * mean:.1f}", f"{scale * std:.1f}")
    means = [_spread(values)[0] for values in groups.values()]
    pooled = math.sqrt(sum(_spread(values)[1] ** 2 for values in groups.values()) / max(len(groups), 1))
    if means:
        ratio = f"{(max(means) - min(means)) / pooled:.1f} times" if pooled else "more than"
        table.caption = f"range over values {scale * (max(means) - min(means)):.1f}{unit} = {ratio} the standard deviation over seeds ({scale * pooled:.2f}{unit})"
    return table


SCORES = {"knn_val_top1": "k-NN val", "linear_val_top1": "linear val", "rankme": "RankMe"}


def _scale(metric: str) -> float:
    """What a metric is shown times: top-1 accuracies in per cent, a rank as it is."""
    return 100 if metric.endswith("top1") else 1
