"""Runs in MLflow, through MlflowClient alone: no active run and no global state, so trials in one process never meet."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError
from ..storage.logins import bare
from ..storage.names import folder_of
from .datasets import Dataset
from .links import run_url
from .runs import points_of
from .store import TrackingError, asking, sqlite_path, uploading, use_wal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run

INEXACT = "contray.inexact"  # a tag: why a run is not what its config says, so that none takes its numbers for that config's
PARAM_CHARS, PARAMS_PER_BATCH = 6000, 100  # MLflow's limits


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow, as plain strings: it travels to workers. Every method waits for MLflow and raises TrackingError."""

    uri: str
    experiment_id: str
    run_id: str

    @property
    def url(self) -> str:
        """The run's page."""
        return run_url(self.uri, self.experiment_id, self.run_id)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or change tags."""
        with asking(self.uri, "setting tags") as talk:
            from mlflow.entities import RunTag

            talk.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()], synchronous=True)

    def log_metrics(self, values: Mapping[str, float], step: int, model_id: str = "") -> None:
        """Log results of the whole run (the driver's, not a curve); `model_id`: they also describe that model.

        A value that stands there already at this step is not logged again, so a repeated evaluation doubles nothing.
        """
        now = int(time.time() * 1000)
        with asking(self.uri, f"logging {', '.join(values)}") as talk:
            from mlflow.entities import Metric

            known = talk.get_run(self.run_id).data.metrics
            new = {
                name: value
                for name, value in with_gains(values).items()
                if name not in known or not self._has(talk, name, value, step)
            }
            metrics = [
                Metric(name, float(value), now, step, model_id=model_id or None, run_id=self.run_id)
                for name, value in new.items()
            ]
            if metrics:
                talk.log_batch(self.run_id, metrics=metrics, synchronous=True)

    def _has(self, talk: MlflowClient, name: str, value: float, step: int) -> bool:
        return any(point.step == step and point.value == value for point in talk.get_metric_history(self.run_id, name))

    def results(self) -> tuple[dict[str, float], dict[str, str]]:
        """(the last value of every metric, the tags)."""
        with asking(self.uri, "reading the run") as talk:
            found = talk.get_run(self.run_id).data
            return dict(found.metrics), dict(found.tags)

    def history(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a metric at every step that the store has."""
        with asking(self.uri, f"reading {name}") as talk:
            return points_of(talk, self.run_id, name)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Add parameters; MLflow refuses to change one that stands there."""
        with asking(self.uri, f"logging {', '.join(params)}") as talk:
            from mlflow.entities import Param

            talk.log_batch(
                self.run_id, params=[Param(key, str(value)[:PARAM_CHARS]) for key, value in params.items()], synchronous=True
            )

    def log_inputs(self, datasets: Sequence[Dataset]) -> None:
        """Name the data that the run saw; MLflow keeps each once."""
        with asking(self.uri, "naming its data") as talk:
            talk.log_inputs(self.run_id, datasets=[each.entity() for each in datasets])

    def share_inputs(self, run_id: str) -> None:
        """Name the data of another run as this one's: a group's are those of its members."""
        with asking(self.uri, "naming its data") as talk:
            inputs = talk.get_run(run_id).inputs
            if inputs and inputs.dataset_inputs:
                talk.log_inputs(self.run_id, datasets=inputs.dataset_inputs)

    def data_names(self) -> set[str]:
        """The names of the data that MLflow knows of."""
        with asking(self.uri, "reading its data") as talk:
            inputs = talk.get_run(self.run_id).inputs
            return {each.dataset.name for each in (inputs.dataset_inputs if inputs else [])}

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Keep a file, or a folder with all in it, among the run's artifacts."""
        with asking(self.uri, f"keeping {path}") as talk, uploading():
            talk.log_artifact(self.run_id, str(path), folder or None)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Keep a matplotlib figure; `name` ends in .png, .svg or .pdf."""
        with asking(self.uri, f"keeping {name}") as talk, uploading():
            talk.log_figure(self.run_id, figure, name)

    def kept(self) -> set[str]:
        """The names of the run's artifacts and of its models."""
        with asking(self.uri, "listing artifacts") as talk:
            outputs = talk.get_run(self.run_id).outputs
            models = [talk.get_logged_model(model.model_id).name for model in (outputs.model_outputs if outputs else [])]
            return {file.path for file in talk.list_artifacts(self.run_id)} | set(models)

    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED, as MLflow has it."""
        with asking(self.uri, "reading the run's status") as talk:
            return talk.get_run(self.run_id).info.status

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"], at: int | None = None) -> None:
        """End the run, now or `at` (ms since 1970); `begin` with its id opens it again."""
        with asking(self.uri, "ending the run") as talk:
            talk.set_terminated(self.run_id, status, at)


def with_gains(values: Mapping[str, float]) -> dict[str, float]:
    """With what training gained over the untrained encoder, as knn_gain and linear_gain, where test images tell both; after a data set's `NAME.`, too."""
    gains = {}
    for name, value in values.items():
        if (found := re.fullmatch(r"(.*\.)?random_(knn|linear)_top1", name)) and (
            own := f"{found[1] or ''}{found[2]}_top1"
        ) in values:
            gains[f"{found[1] or ''}{found[2]}_gain"] = values[own] - value
    return {**values, **gains}


def begin(
    uri: str,
    experiment: str,
    run_name: str,
    *,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    run_id: str | None = None,
    parent_id: str | None = None,
    again: bool = False,
) -> TrackedRun:
    """Create a run, as a child of `parent_id` if given, or go on in `run_id`: RUNNING again, tags set anew, missing params added.

    The experiment is created where it is missing. Raises TrackingError, RunGone when `run_id` is not (or no longer) in this store and
    not `again`, which has a new run take its place, and ConfigError when the experiment was deleted.
    """
    if run_id and again and _is_gone(uri, run_id):
        tags, run_id = {**tags, "contray.replaces": run_id}, None
    with asking(uri, f"{'resuming' if run_id else 'creating'} run {run_id or run_name!r}") as talk:
        if path := sqlite_path(uri):
            use_wal(path)
        all_tags = {**tags, **({"mlflow.parentRunId": parent_id} if parent_id else {})}
        if run_id is None:
            run = talk.create_run(_experiment(talk, uri, experiment), run_name=run_name)
        else:
            run = _found(talk, uri, run_id)
            talk.update_run(run_id, status="RUNNING")  # MLflow keeps the old end time until `finish` sets the new one
        tracked = TrackedRun(uri, run.info.experiment_id, run.info.run_id)
        with _whole(talk, tracked.run_id):
            _fill(talk, tracked.run_id, run.data.params, params, all_tags)
    return tracked


@contextmanager
def _whole(talk: MlflowClient, run_id: str) -> Iterator[None]:
    """A run whose beginning is interrupted does not stay RUNNING: nobody would know of it."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            talk.set_terminated(run_id, "KILLED")
        raise


def _fill(
    talk: MlflowClient, run_id: str, known: Mapping[str, str], params: Mapping[str, object], tags: Mapping[str, str]
) -> None:  # fmt: skip
    from mlflow.entities import Param, RunTag

    missing = [Param(key, str(value)[:PARAM_CHARS]) for key, value in params.items() if key not in known]
    for first in range(0, len(missing), PARAMS_PER_BATCH):
        talk.log_batch(run_id, params=missing[first : first + PARAMS_PER_BATCH], synchronous=True)
    talk.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()], synchronous=True)


def attach(uri: str, run_id: str) -> TrackedRun:
    """A run that exists already, as it stands. Raises TrackingError, RunGone when this store has no such run."""
    with asking(uri, f"finding run {run_id!r}") as talk:
        return TrackedRun(uri, _found(talk, uri, run_id).info.experiment_id, run_id)


class RunGone(TrackingError):
    """The store has no such run, or has it in its bin."""


def _found(talk: MlflowClient, uri: str, run_id: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        run = talk.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise RunGone(
            f"track.uri: {bare(uri)} has no run {run_id} (it was deleted for good, or was kept in another store); name the store that has it, "
            "or give train, tune or sync --track.again true: a new run takes its place"
        ) from None
    if run.info.lifecycle_stage != "active":
        raise RunGone(
            f"track.uri: run {run_id} was deleted in MLflow; `mlflow runs restore --run-id {run_id}` brings it back, "
            "or give train, tune or sync --track.again true: a new run takes its place"
        )
    return run


def _is_gone(uri: str, run_id: str) -> bool:
    try:
        attach(uri, run_id)
    except RunGone:
        return True
    return False


def _experiment(talk: MlflowClient, uri: str, name: str) -> str:
    found = talk.get_experiment_by_name(name)
    if found is None:
        return _create_experiment(talk, uri, name)
    if found.lifecycle_stage != "active":
        raise ConfigError(
            "track.experiment",
            f"{name!r} was deleted in MLflow: `mlflow experiments restore -x {found.experiment_id}`, or another name",
        )
    return found.experiment_id


def _create_experiment(talk: MlflowClient, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    place = None  # a server knows where it keeps artifacts; for a file MLflow would take the process's own folder
    if path := sqlite_path(uri):
        place = (path.parent / "mlartifacts" / folder_of(name)).as_uri()
    try:
        return talk.create_experiment(name, artifact_location=place, tags={"mlflow.experimentKind": "custom_model_development"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _experiment(talk, uri, name)  # another run created it meanwhile
