"""What is on record of a run, in its folder and in MLflow: its name, its tags, its config, how it ended."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .. import data, track
from ..config import RunConfig
from ..errors import ConfigError
from ..logins import bare
from ..names import check_case
from .checkpoint import Storage

RECORD, SWEEP, SEEDS = "run.json", "sweep.json", "seeds.json"  # each in a folder of its own


def note(folder: Storage, run: track.TrackedRun, **facts: Any) -> None:
    """Keep what is known of the run. `finished`: it reached its end; `synced`: MLflow has all that there is of it."""
    known = {"run_id": run.run_id, "uri": bare(run.uri), "finished": False, "synced": False}
    folder.write(RECORD, json.dumps({**known, **facts}).encode())


def end(
    folder: Storage, run: track.TrackedRun, status: Literal["FINISHED", "FAILED", "KILLED"], ended: Mapping[str, Any]
) -> None:
    """Tell MLflow and the folder how the run ended; `ended`: what its rank 0 returned. What MLflow could not be told, `contray sync` tells."""
    told = True
    try:
        run.finish(status)
    except track.TrackingError:
        told = False
    complete = told and not ended.get("unsent") and bool(ended.get("artifacts"))
    try:
        note(
            folder, run, finished=bool(ended.get("finished")), synced=complete, status=status, ended=int(time.time() * 1000),
            unsent=ended.get("unsent", 0),
        )  # fmt: skip
    except OSError as error:
        print(
            f"contray: the end of the run could not be noted in {folder.address} ({error}); the same command does it again",
            flush=True,
        )


def read(folder: Storage) -> dict[str, Any]:
    """What `note` kept; empty where there is nothing."""
    return json.loads(folder.read(RECORD)) if RECORD in folder.names() else {}


def name_of(config: RunConfig, storage: Storage) -> tuple[str, Mapping[str, Any]]:
    """The name of the run and what is on record of it: an unfinished run of the name goes on, after a finished one comes name-2."""
    base = config.track.name or config.run_name
    check_case("track.name", base, storage.folders())
    if config.train.extend != "no":
        return base, _extended(config, storage)
    name, number = base, 1
    while True:
        check_kind(storage / name, RECORD)
        record = read(storage / name)
        if not record.get("finished"):
            return name, record
        number += 1
        name = f"{base}-{number}"


def _extended(config: RunConfig, storage: Storage) -> Mapping[str, Any]:
    """What is on record of the run that train.extend goes on with."""
    if not config.track.name:
        raise ConfigError("train.extend", "say which run goes on, by --track.name; each run prints its name")
    check_kind(storage / config.track.name, RECORD)
    record = read(storage / config.track.name)
    if not record:
        raise ConfigError("train.extend", f"there is no run {config.track.name} in {storage.address}")
    return record


def check_kind(folder: Storage, record: str) -> None:
    """Refuse a folder that holds what another command made: a run, a sweep and a group of seeds cannot share a name."""
    kinds = {RECORD: "a run", SWEEP: "a sweep", SEEDS: "a group of seeds"}
    names = folder.names()
    other = next((kind for file, kind in kinds.items() if file in names and file != record), None)
    if other:
        name = folder.address.rstrip("/").rpartition("/")[2]
        raise ConfigError("track.name", f"{name} is {other} in {folder.address.rpartition('/')[0]}; choose another name")


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


def record_config(run: track.TrackedRun, config: RunConfig) -> None:
    """Keep the resolved config among the run's artifacts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(config.to_yaml())
        run.log_artifact(path)
