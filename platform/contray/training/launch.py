"""The driver's side of a run: name it, record it, start its workers, watch them, tell how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import data, model, track
from ..config import RunConfig
from ..progress import TrainingBar
from .audit import check_audit
from .checkpoint import PATTERN, Storage
from .ray_train import check_machines, fit, ray_session
from .stop import interrupts
from .worker import Asked, Plan, work

RECORD = "run.json"


@dataclass(frozen=True)
class Result:
    """How a run ended. `metrics` as MLflow has them; `checkpoint` its folder of checkpoints; `run_id` MLflow's."""

    name: str
    metrics: Mapping[str, float]
    run_id: str
    url: str
    checkpoint: str
    step: int
    finished: bool
    details: Mapping[str, Any] = field(default_factory=dict)


def launch(config: RunConfig, *, quiet: bool = False, parent: str | None = None, tags: Mapping[str, str] | None = None) -> Result:
    """Run a config to its end, or go on with an unfinished run of the same name. Everything that can be refused is refused before Ray starts.

    parent: MLflow run that this one is a child of. quiet: no progress bar.
    """
    source = data.open_source(config.data)
    model.check(config, len(source.train))
    data.check_views(source.train, config.views)
    check_machines(config)
    uri = track.resolve_uri(config.track.uri)
    track.check(uri)
    storage = Storage(config.scale.storage)
    storage.create()
    if config.train.audit:
        check_audit(storage)
    name, record = _name(config, storage)
    folder = storage / name
    folder.create()
    run = track.begin(
        uri, config.track.experiment, name, params=config.flat(), run_id=record.get("run_id"), parent_id=parent, tags={**tags_of(config, source), **(tags or {})}
    )  # fmt: skip
    folder.write(RECORD, json.dumps({"run_id": run.run_id, "finished": False}).encode())
    folder.write("config.yaml", config.to_yaml().encode())
    _record_config(run, config)
    resumed = any(PATTERN.fullmatch(found) for found in folder.names())

    if not quiet:
        print(
            f"{'going on with' if resumed else 'run'} {name}: {len(source.train):,} samples of {source.name}; {run.url}",
            flush=True,
        )
    status = "FAILED"
    try:
        with TrainingBar(name, quiet) as bar:
            ended = (
                _in_process(config, folder, run, bar)
                if config.scale.workers == (0, 0)
                else _on_ray(config, name, folder, run, bar)
            )
        status = "FINISHED" if ended["finished"] else "KILLED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with contextlib.suppress(
            track.TrackingError
        ):  # the run itself is over; what MLflow could not be told stands in the storage
            run.finish(status)
    folder.write(RECORD, json.dumps({"run_id": run.run_id, "finished": ended["finished"]}).encode())
    return Result(name, ended["metrics"], run.run_id, run.url, folder.address, ended["step"], ended["finished"], ended)


def launch_seeds(config: RunConfig, seeds: int, *, quiet: bool = False) -> list[Result]:
    """The same config under `seeds` consecutive seeds, as children of one MLflow run that carries the means."""
    source = data.open_source(config.data)
    model.check(config, len(source.train))
    data.check_views(source.train, config.views)
    check_machines(config)
    uri = track.resolve_uri(config.track.uri)
    track.check(uri)
    name = f"{config.run_name}-x{seeds}"
    params = {key: value for key, value in config.flat().items() if key != "seed"}
    parent = track.begin(
        uri, config.track.experiment, name, params=params, tags={**tags_of(config, source), "contray.kind": "seeds"}
    )
    status = "FAILED"
    try:
        with ray_session(config) if config.scale.workers != (0, 0) else contextlib.nullcontext():
            results = [
                launch(
                    replace(config, seed=config.seed + offset), quiet=quiet, parent=parent.run_id, tags={"contray.kind": "seed"}
                )
                for offset in range(seeds)
            ]
        parent.log_metrics(
            {key: sum(result.metrics[key] for result in results) / seeds for key in results[0].metrics}, step=results[0].step
        )
        status = "FINISHED"
    finally:
        parent.finish(status)
    return results


# ---------------------------------------------------------------- names and records


def _name(config: RunConfig, storage: Storage) -> tuple[str, Mapping[str, Any]]:
    """The name of the run and what is on record of it: an unfinished run of the name goes on, after a finished one comes name-2."""
    base = config.track.name or config.run_name
    name, number = base, 1
    while True:
        folder = storage / name
        record = json.loads(folder.read(RECORD)) if RECORD in folder.names() else {}
        if not record.get("finished"):
            return name, record
        number += 1
        name = f"{base}-{number}"


def tags_of(config: RunConfig, source: data.Source) -> dict[str, str]:
    tags = {
        "contray.kind": "run",
        "contray.method": Path(config.method.name).stem,
        "contray.preset": config.method.preset,
        "contray.dataset": source.name,
        "contray.group": config.digest("scale", "track", "seed"),
    }
    commit = _commit()
    return {**tags, "mlflow.source.git.commit": commit} if commit else tags


def _commit() -> str:
    """The commit of the code that runs, with + where files differ from it; empty where there is no repository."""

    def git(*words: str) -> str:
        try:
            return subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True, check=True, timeout=5
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""

    commit = git("rev-parse", "HEAD")
    return commit + "+" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def _record_config(run: track.TrackedRun, config: RunConfig) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(config.to_yaml())
        run.log_artifact(path)


# ---------------------------------------------------------------- where it runs


def _in_process(config: RunConfig, folder: Storage, run: track.TrackedRun, bar: TrainingBar) -> dict[str, Any]:
    asked = [False]

    def show(message: dict[str, Any]) -> Asked:
        bar.show(message)
        return Asked(stop=asked[0])

    threads = config.scale.cpus_per_worker or os.cpu_count() or 1
    with interrupts(asked):
        return work(Plan(config.to_yaml(), folder.address, run, threads), show)


def _on_ray(config: RunConfig, name: str, folder: Storage, run: track.TrackedRun, bar: TrainingBar) -> dict[str, Any]:
    with ray_session(config):
        return fit(config, name, folder, run, bar)
