"""`contray sync`: after an outage, send what MLflow lacks of runs that have ended, and nothing twice.

Everything comes from the run's folder: points from its newest checkpoint, the spool and the verdict; pictures and encoder from the config,
the data and the checkpoint. The run's lease is held meanwhile, so that a run that trains is left alone: it sends for itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import data, track
from ..config import RunConfig
from ..config.registry import name_files
from ..config.sections import ScaleConfig
from ..errors import UserError, nearest
from ..model.encoder import read_checkpoint
from ..storage import sealed
from ..storage.checkpoint import latest
from ..storage.folder import Storage
from ..storage.logins import bare
from . import artifacts, records, spool
from .describing import describe, title_of
from .lease import held
from .records import ENDED
from .resend import resend
from .signature import TAG, signature
from .worker import VERDICT

STORAGE = ScaleConfig.storage


@dataclass(frozen=True)
class Synced:
    """What was done for one run. `sent`: points that MLflow lacked; `unsent`: those that it still lacks; `added`: artifacts; `problem`: what hindered."""

    name: str
    run_id: str = ""
    sent: int = 0
    unsent: int = 0
    added: tuple[str, ...] = ()
    status: str = ""
    problem: str = ""

    def __str__(self) -> str:
        done = [f"{self.sent} points"] if self.sent else []
        done += [*self.added, *([f"status {self.status}"] if self.status else [])]
        words = f"{self.name}: " + (f"sent {', '.join(done)}" if done else "" if self.problem else "nothing was missing")
        return f"{words}{'; ' * bool(done and self.problem)}{self.problem}{f'; {self.unsent} points still unsent' * bool(self.unsent)}"


def sync(
    runs: Sequence[str] = (),
    *,
    storage: str = STORAGE,
    uri: str = "",
    code: str | Sequence[str] = (),
    again: bool = False,
    timeout_s: float = 60,
) -> list[Synced]:
    """Send what MLflow lacks of these runs (names under `storage`, or folders; a sweep's folder: its trials), or of all under `storage`.

    uri: where MLflow is now, should it have moved. code: your own .py files that the runs are made with.
    again: a new MLflow run takes the place of one that is gone, with what the folder has of it. timeout_s: for the points of one run.
    What hinders one run of several is its `problem`;
    of a single one it is raised: UserError where it is being trained, ConfigError where MLflow does not answer. UserError for an unknown name.
    """
    name_files(code)
    if uri:
        track.check(track.resolve_uri(uri), exists=True)
    place = Storage(storage)
    folders = list(_named(runs, storage) if runs else _below(place))
    if not folders:  # a misspelt place, or that of another working directory, is none whose runs lack nothing
        raise UserError(f"scale.storage: there is no run in {place.address}; give what it is for the runs, or name their folders")
    done = []
    for folder in folders:
        try:
            done.append(_sync(folder, uri, timeout_s, bool(runs), again))
        except UserError as error:
            if runs and len(folders) == 1:
                raise
            done.append(Synced(folder.name, problem=str(error)))
    return [each for each in done if each is not None]


def _named(runs: Sequence[str], storage: str) -> Iterator[Storage]:
    place = Storage(storage)
    for word in runs:
        folders = [Storage(word), place / word] if "/" in word or Path(word).is_dir() else [place / word]
        found = next((below for folder in folders if (below := list(_below(folder)))), None)
        if found is None:
            known = [name for name in place.folders() if not name.startswith(".")]
            hint = nearest(word, known) if known else "nor any other; --scale.storage names another place"
            raise UserError(f"{word}: there is no run of this name in {place.address}, {hint}")
        yield from found


def _below(place: Storage, depth: int = 2) -> Iterator[Storage]:
    """`place` where it is a run, else the runs in it, and the trials of the sweeps in it."""
    if records.RECORD in place.names():
        yield place
    elif depth:
        for name in place.folders():
            if not name.startswith("."):  # Ray's own
                yield from _below(place / name, depth - 1)


def _sync(folder: Storage, uri: str, timeout_s: float, thorough: bool, again: bool) -> Synced | None:
    if _record(folder, uri, quiet=True).get("synced") and not thorough and not again:
        return None
    with held(folder, quiet=not thorough) as lease:
        return _send(lease.fenced(), uri, timeout_s, again)


def _send(folder: Storage, uri: str, timeout_s: float, again: bool = False) -> Synced:
    """What `sync` does for one run, under its lease."""
    record, names = _record(folder, uri), folder.names()
    trial = bool(record.get("trial", "finished" not in record))
    if trial and ENDED not in names:
        return Synced(folder.name, record["run_id"], problem="the trial has not ended; `contray tune --resume` goes on with it")
    state = latest(folder)
    text = state["config"] if state else folder.read("config.yaml").decode() if "config.yaml" in names else ""
    if not text:
        return Synced(folder.name, record["run_id"], problem="it has neither a config nor a checkpoint yet")
    config = RunConfig.from_yaml(text, encoder=True)
    metrics, kept, damaged = {}, [], []
    try:
        metrics = sealed.read(folder, VERDICT, sealed.NUMBER) or {}
    except sealed.Damaged as error:
        damaged.append(f"{error}; what MLflow lacks of the verdict cannot be sent")
    try:
        kept = spool.get(folder)
    except sealed.Damaged as error:
        damaged.append(f"{error}; checkpoint and verdict have the points that can still be told")
    finished = bool(record.get("finished")) or ENDED in names
    where = _uri(config, record, uri)
    track.check(where, exists=True)
    run = _run(where, config, record, folder.name, again)
    if run.run_id != record["run_id"]:
        resend(folder, run)
        records.note(folder, run, **{**record, "run_id": run.run_id, "uri": bare(where), "synced": False})
        record = records.read(folder)

    log = track.MetricLog(run, pending=_points(state, metrics if finished else {}, kept))
    unsent = log.close(timeout_s)
    spool.put(folder, log.pending())
    status = _mend_status(run, record.get("status") or ("FINISHED" if finished else "KILLED"), record.get("ended"))
    added, problem = [], "; ".join(damaged)
    try:
        if state and not run.data_names():
            run.log_inputs(track.datasets_of(data.open_source(config), state["fingerprint"]["data"], config.data.source))
            if not trial and RunConfig.from_yaml(state["config"]).train.extend != "anyway":  # told with the data
                run.set_tags({TAG: signature(config, state["fingerprint"])})
            added.append("data set")
        if not trial and describe(run, config, folder.name):
            added.append("description")
    except (UserError, OSError) as error:
        damaged.append(f"the data or the description could not be told ({error})")
        problem = "; ".join(damaged)
    if state and not trial:
        ended = artifacts.Ended(config, state["step"], state["worlds"], finished, metrics)
        try:
            added += artifacts.keep(
                run, ended, lambda: data.open_source(config), lambda: read_checkpoint(folder.address).method, log.sent > 0
            )  # fmt: skip
        except (UserError, OSError) as error:
            problem += "; " * bool(problem) + f"artifacts could not be made ({error})"
    records.note(folder, run, **{**record, "trial": trial, "unsent": unsent, "synced": not unsent and not problem})
    return Synced(folder.name, run.run_id, log.sent, unsent, tuple(added), status, problem)


def _record(folder: Storage, uri: str, quiet: bool = False) -> dict[str, Any]:
    def search() -> dict[str, Any] | None:
        if "config.yaml" not in folder.names():
            return None
        config = RunConfig.from_yaml(folder.read("config.yaml").decode(), encoder=True).track
        return records.search_for(folder, track.resolve_uri(uri or config.uri), config.experiment)

    return records.read(folder, quiet, search)


def _run(uri: str, config: RunConfig, record: dict[str, Any], name: str, again: bool) -> track.TrackedRun:
    """The run on record, or, where that is gone and a new one may take its place, that one."""
    try:
        return track.attach(uri, record["run_id"])
    except track.RunGone:
        if not again:
            raise
    tags = records.tags_of(config, data.open_source(config), name)
    return track.begin(
        uri, config.track.experiment, title_of(config, name), params=config.flat(), tags=tags, run_id=record["run_id"], again=True
    )


def _points(state: dict[str, Any] | None, metrics: dict[str, float], kept: Sequence[track.Point]) -> list[track.Point]:
    """All that may be missing, one value per metric and step; what was logged with its time wins over the verdict's file, which has none."""
    now = int(time.time() * 1000)
    verdict = [(name, value, now, state["step"]) for name, value in track.with_gains(metrics).items()] if state else []
    logged = [tuple(point) for point in state["points"]] if state else []
    points = {(name, step): (name, value, time_ms, step) for name, value, time_ms, step in [*verdict, *logged, *kept]}
    return list(points.values())


def _mend_status(run: track.TrackedRun, status: Literal["FINISHED", "FAILED", "KILLED"], at: int | None) -> str:
    """Set the status that the run ended with; what was set, empty where MLflow knew. A driver that died is a killed run."""
    if run.status() == status:
        return ""
    run.finish(status, at)
    return status


def _uri(config: RunConfig, record: dict[str, Any], uri: str) -> str:
    """Where the run is on record; a login is not noted there and comes from the command line or MLFLOW_TRACKING_URI."""
    own = track.resolve_uri(uri or config.track.uri)
    return own if uri else record.get("uri", "") or own


def command(name: str, config: RunConfig) -> str:
    """What to type to send what a run left unsent."""
    elsewhere = config.scale.storage != STORAGE
    return f"contray sync {name}" + (f" --scale.storage {config.scale.storage}" if elsewhere else "")
