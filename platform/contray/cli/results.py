"""Tables for people, and the same facts as JSON for scripts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig
from ..config.registry import load_method, method_names
from ..config.spaces import load_space, space_names
from ..errors import UserError
from ..tables import Table
from .output import show

if TYPE_CHECKING:
    from ..reporting.measured import Measured
    from ..training.result import Result, Results
    from ..tuning import SweepResult


def show_result(config: RunConfig, result: Result) -> None:
    """The verdict of one run and where to look on."""
    from .. import track

    show(*result.findings)
    if result.finished:
        show(
            result.trained,
            f"checkpoint  {result.checkpoint}",
            f"MLflow run  {result.run_id}",
            f"see it      {track.to_open(track.resolve_uri(config.track.uri), result.url)}",
            *([f"all runs    {result.details['runs_url']}"] if "runs_url" in result.details else []),
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
            f"the same command measures it, or `contray eval linear --run {result.run_id}`",
            file=sys.stderr,
        )
    return bool(unmeasured)


def show_seeds(results: Results) -> None:
    """One row per seed, then mean and standard deviation."""
    show(*results.shown, *(f"seed {result.name.rpartition('-s')[2]:<6} {result.url}" for result in results))


def method_rows(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The method table: one row per method, from the exports of its file; of these alone, or of all there are. An installed one that
    cannot be had is left out, and said."""
    rows = []
    for name in names or method_names():
        try:
            file = load_method(name)
        except UserError as error:
            if names:
                raise
            print(f"contray: left out: {error}", file=sys.stderr)
            continue
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


def show_records(records: Sequence[Measured], whole: bool) -> None:
    """The measurements, a row each; whole: all rows of each, and how to get them again."""
    from ..reporting.measured import table as rows_of

    if not whole:
        table = Table("contray records RECORD", "record", "what", "rows", "by", "machine", "commit", left=(0, 1, 3, 4, 5))
        for each in records:
            table.add(each.record, each.what, str(len(each.rows)), each.by, each.machine, each.commit)
        show(table)
        return
    for each in records:
        show(
            rows_of(each),
            *([each.notes] if each.notes else []),
            f"by       {each.by}, {each.where}",
            f"machine  {each.machine}: {each.machine_is}",
            f"commit   {each.commit}",
            f"command  {each.command}",
        )


def show_sweep(result: SweepResult) -> None:
    """The ranked trials of a sweep, the winner and where to look on; for a study over seeds, the mean of each value too."""
    from .. import track

    show(*result.shown)
    if result.best:
        here = isinstance(result.best_config, Path)
        show(f"its config  {'contray train --config ' if here else ''}{result.best_config}")
    beside = ", ".join(str(each).rpartition("/")[2] for each in result.pictures if each != result.plots)
    show(
        f"plots       {result.plots}{f'; beside it {beside}' if beside else ''}",
        f"compare     {track.to_open(result.uri, result.url)}",
        f"MLflow run  {result.parent_url}",
    )
