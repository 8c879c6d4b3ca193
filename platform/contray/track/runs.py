"""Which runs of a store are meant: by their ids or names, all of an experiment, children in the place of their parent."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import UserError, nearest
from ..storage.logins import bare

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENTS = ("seeds", "sweep", "study")  # tag contray.kind of runs that stand for their children
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for an id that it does not have


def find_runs(talk: MlflowClient, uri: str, names: Iterable[str]) -> list[Run]:
    """The runs of these ids or names. Raises UserError for one that the store does not have, and for a name that several have."""
    return [find_run(talk, uri, name) for name in names]


def find_run(talk: MlflowClient, uri: str, name: str) -> Run:
    """The run of an id or a name, as `find_runs` has it."""
    from mlflow.exceptions import MlflowException

    try:
        run = talk.get_run(name)
    except MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise
    else:
        if run.info.lifecycle_stage == "deleted":
            raise UserError(f"run {name} was deleted in MLflow; `mlflow runs restore --run-id {name}` brings it back")
        return run
    found = _called(talk, name)
    if len(found) > 1:
        begun = (time.strftime("%Y-%m-%d %H:%M", time.localtime(run.info.start_time / 1000)) for run in found)
        ids = ", ".join(f"{run.info.run_id} of {when}" for run, when in zip(found, begun, strict=True))
        raise UserError(f"{len(found)} runs are called {name!r}: give an id, {ids}")
    if not found:
        raise UserError(
            f"there is no run {name!r} in {bare(uri)}, neither an id nor a name; contray compare without --run has all of --track.experiment"
        )
    return found[0]


def _called(talk: MlflowClient, name: str) -> list[Run]:
    if not name or not ({"'", '"'} - set(name)):  # no filter of MLflow's can hold it
        return []
    quote = '"' if "'" in name else "'"
    places = [each.experiment_id for each in talk.search_experiments()]
    found = {}
    for what in ("attributes.run_name", "tags.`contray.name`"):  # what MLflow shows, and the name of the run's folder
        found |= {
            run.info.run_id: run
            for run in (talk.search_runs(places, f"{what} = {quote}{name}{quote}", max_results=20) if places else [])
        }
    return list(found.values())


def points_of(talk: MlflowClient, run: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric of a run, in the order of steps; of a step that was logged twice the later value."""
    points = sorted(talk.get_metric_history(run, name), key=lambda point: point.timestamp)
    return sorted({point.step: point.value for point in points}.items())


def experiment_id(talk: MlflowClient, uri: str, name: str) -> str:
    """Of an experiment. Raises UserError where there is none of the name."""
    found = talk.get_experiment_by_name(name)
    if found is None:
        known = [known.name for known in talk.search_experiments()]
        raise UserError(f"there is no experiment {name!r} in {bare(uri)}; {nearest(name, known)}")
    return found.experiment_id


def all_runs(talk: MlflowClient, experiment: str, where: str = "") -> list[Run]:
    """Of an experiment, by its id, the oldest first."""
    runs, token = [], None
    while token is None or token:
        page = talk.search_runs([experiment], where, order_by=["attributes.start_time ASC"], page_token=token)
        runs, token = runs + list(page), page.token or ""
    return runs


def trainings(runs: Iterable[Run]) -> list[Run]:
    """Without those that keep the report of a look at data."""
    return [run for run in runs if run.data.tags.get("contray.kind") != "data check"]


def children(talk: MlflowClient, parent: Run) -> list[Run]:
    """The seeds of a group, the trials of a sweep."""
    return all_runs(talk, parent.info.experiment_id, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")


def without_parents(talk: MlflowClient, runs: Iterable[Run]) -> list[Run]:
    """Each run once, its children in the place of a parent."""
    kept: dict[str, Run] = {}
    for run in runs:
        if run.data.tags.get("contray.kind") in PARENTS:
            kept.update((child.info.run_id, child) for child in without_parents(talk, children(talk, run)))
        else:
            kept[run.info.run_id] = run
    return list(kept.values())


def known_as(run: Run) -> str:
    """What a run is called where it is named: the name of its folder; of a sweep's trial, what MLflow shows."""
    tags = run.data.tags
    folder = tags.get("contray.name", "") if tags.get("contray.kind") != "trial" else ""
    return folder or run.info.run_name or run.info.run_id


def common_name(names: Iterable[str]) -> str:
    """What runs of one configuration are called: without the seed where they differ in that alone, else the first and how many more."""
    names = list(dict.fromkeys(names))
    stems = {re.sub(r"[-_,; ]*\b(s|seed[ =]?)\d+$", "", name) for name in names}
    if len(names) > 1 and len(stems) == 1 and (stem := stems.pop()):
        return stem
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
