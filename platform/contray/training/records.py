"""What is on record of a run, in its folder and in MLflow: its name, its tags, its config, how it ended."""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import data, track
from ..config import RunConfig
from ..errors import ConfigError, UserError
from ..model.frozen import kept_of
from ..storage import sealed
from ..storage.folder import Storage
from ..storage.logins import bare
from ..storage.names import check_case
from .describing import differing, settings
from .lease import NotSeen
from .stop import Status

RECORD, SWEEP, SEEDS = "run.json", "sweep.json", "seeds.json"  # each in a folder of its own
COPY = "run.copy.json"
ENDED = "ended.json"  # of a trial that has ended
KINDS: sealed.Kinds = {
    **{"run_id": str, "uri": str, "finished": bool, "synced": bool, "trial": bool},
    **{"status": str, "ended": (int, type(None)), "unsent": int},
}
SECRET = re.compile(r"password|passwd|token|secret|access_key|api_?key", re.IGNORECASE)
FAILURE = "contray.failure"  # the tag that says why a run failed
# tags that a sweep's trials have as it has them
SHARED = (
    "contray.dataset", "contray.images", "mlflow.user", "contray.host", "contray.job", "contray.image", "contray.command", "mlflow.source.git.commit",
)  # fmt: skip
TAG_CHARS = 5000  # MLflow's limit of a tag's value is 8000
FOLDER = "contray.folder"  # the tag by which MLflow knows where a run lies


def note(folder: Storage, run: track.TrackedRun, **facts: Any) -> None:
    """Keep what is known of the run, twice. `finished`: it reached its end and was measured; `synced`: MLflow has all that there is of it."""
    known = {"run_id": run.run_id, "uri": bare(run.uri), "finished": False, "synced": False}
    for name in (RECORD, COPY):
        sealed.write(folder, name, {**known, **facts})


def end(
    folder: Storage,
    run: track.TrackedRun,
    status: Status,
    ended: Mapping[str, Any],
    reason: str = "",
) -> None:
    """Tell MLflow and the folder how the run ended; `ended`: what its rank 0 returned; `reason`: why it failed. What MLflow could not be told,
    `contray sync` tells."""
    told = True
    try:
        run.finish(status)
        if reason:
            run.set_tags({FAILURE: reason[:TAG_CHARS]})
    except track.TrackingError:
        told = False
    complete = told and not ended.get("unsent") and bool(ended.get("artifacts"))
    try:
        note(
            folder, run, finished=bool(ended.get("finished")) and not ended.get("unmeasured"), synced=complete, status=status, ended=int(time.time() * 1000),
            unsent=ended.get("unsent", 0),
        )  # fmt: skip
    except (OSError, NotSeen) as error:
        print(
            f"contray: the end of the run could not be noted in {folder.address} ({error}); the same command does it again",
            flush=True,
        )


def read(folder: Storage, quiet: bool = False, search: Callable[[], dict[str, Any] | None] = lambda: None) -> dict[str, Any]:
    """What `note` kept; empty where there is nothing. A damaged record is mended from its copy, else from what `search` finds, and that is said.

    Raises UserError where neither tells: a new record would be a second run of the same training.
    """
    try:
        return sealed.read(folder, RECORD, KINDS, needed=("run_id",)) or {}
    except sealed.Damaged as error:
        why = error
    found, source = None, COPY
    with contextlib.suppress(sealed.Damaged):
        found = sealed.read(folder, COPY, KINDS, needed=("run_id",))
    if found is None:
        found, source = search(), "MLflow"
    if found is None:
        raise UserError(
            f"track.name: {why}, and neither {COPY} nor a tag {FOLDER} in MLflow tells which run this is; remove both files, and the same "
            "command goes on from the checkpoints there under a new run in MLflow"
        )
    if not quiet:
        print(f"contray: {why}; it was mended from {source}: run {found['run_id']}", flush=True)
    return found


def search_for(folder: Storage, uri: str, experiment: str) -> dict[str, Any] | None:
    """The record of the MLflow run whose tag says that it lies in `folder`; the newest of several, None without one."""
    quote = '"' if "'" in folder.address else "'"
    with track.asking(uri, f"looking for the run of {folder.address}") as talk:
        place = talk.get_experiment_by_name(experiment)
        runs = place and talk.search_runs(
            [place.experiment_id],
            f"tags.`{FOLDER}` = {quote}{folder.address}{quote}",
            max_results=1,
            order_by=["start_time DESC"],
        )
    if not runs:
        return None
    return {"run_id": runs[0].info.run_id, "uri": bare(uri), "finished": runs[0].info.status == "FINISHED"}


def name_of(config: RunConfig, storage: Storage, quiet: bool = False) -> tuple[str, Mapping[str, Any]]:
    """The name of the run and what is on record of it: an unfinished run of the name goes on, after a finished one comes name-2."""
    uri = track.resolve_uri(config.track.uri)
    base = config.track.name or config.run_name
    check_case("track.name", base, storage.folders())
    if config.train.extend != "no":
        return base, _extended(config, storage)
    name, number = base, 1
    while True:
        folder = storage / name
        check_kind(folder, RECORD)
        record = read(folder, quiet, functools.partial(search_for, folder, uri, config.track.experiment))
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
        name = folder.name
        raise ConfigError("track.name", f"{name} is {other} in {folder.address.rpartition('/')[0]}; choose another name")


def tags_of(config: RunConfig, source: data.Source, name: str = "") -> dict[str, str]:
    """What a run is, and who started it where and how; name: its folder's, by which it is looked for."""
    tags = {
        "contray.kind": "run",
        "contray.name": name,
        "contray.method": Path(config.method.name).stem,
        "contray.preset": config.method.preset,
        "contray.dataset": source.name,
        "contray.images": str(len(source.train)),
        "contray.differs": ", ".join(settings(differing(config)))[:TAG_CHARS],
        "contray.given": ", ".join(f"{key} {config.flat()[key]} ({digest[:12]})" for key, digest in kept_of(config).items())[
            :TAG_CHARS
        ],
        "contray.group": config.digest("scale", "track", "seed"),
        "mlflow.user": _user(),
        "contray.host": socket.gethostname(),
        "contray.job": _job(),
        "contray.image": os.environ.get("CONTRAY_IMAGE", ""),
        "contray.command": shown(sys.argv),
        "mlflow.source.git.commit": os.environ.get("CONTRAY_COMMIT", "") or _commit(),
    }
    return {key: value for key, value in tags.items() if value}


def shown(words: Sequence[str]) -> str:
    """A command line as it may be shown: no login of an address, and no value of what is named a password, a token, a secret or a key."""
    safe, hides = [], False
    for word in [Path(word).name for word in words[:1]] + [*words[1:]]:
        name, equals, _ = word.partition("=")
        secret = SECRET.search(name) is not None
        hidden = "***" if hides else f"{name}=***" if secret and equals else re.sub(r"://\S*@", "://", word)
        safe.append(
            re.sub(r"([?&][^=&]*)=[^&]*", lambda found: f"{found[1]}=***" if SECRET.search(found[1]) else found[0], hidden)
        )
        hides = secret and not equals and name.startswith("-")
    return shlex.join(safe)[:TAG_CHARS]


def _user() -> str:
    """Who asked for the run: on a cluster every process may be of one account."""
    if known := os.environ.get("CONTRAY_USER") or os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return known
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def _job() -> str:
    """The id that `ray job submit` gave, or Slurm; empty outside a job."""
    try:
        known = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(known["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        slurm = os.environ.get("SLURM_JOB_ID", "")
        return f"slurm {slurm}" if slurm else ""


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


def repeatable(config: RunConfig) -> str:
    """The resolved config as a run keeps it, to be repeated: without what was asked of this one run where it went on."""
    return config.replace({"train.extend": "no", "track.again": False}).to_yaml()


def record_config(run: track.TrackedRun, config: RunConfig) -> None:
    """Keep the resolved config among the run's artifacts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(repeatable(config))
        run.log_artifact(path)
