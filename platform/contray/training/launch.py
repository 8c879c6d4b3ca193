"""The driver's side of a run: name it, record it, start its workers, watch them, tell how it ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import data, model, track
from ..config import RunConfig
from ..errors import UserError
from ..progress import TrainingBar
from ..registry import code_of
from .audit import check_audit
from .checkpoint import PATTERN, Storage
from .extend import check_extension
from .lease import Fenced, Guarded, Lease, Watcher, held
from .ray_train import check_machines, fit, ray_session
from .records import end, name_of, note, record_config, tags_of
from .resend import resend
from .stop import interrupts
from .worker import VERDICT, Asked, Plan, work


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
    name, _ = name_of(config, storage)
    folder = storage / name
    folder.create()
    with held(folder, quiet) as lease:
        now, known = name_of(config, storage)
        if now != name:
            raise UserError(f"track.name: another process has just finished {name}; the same command again starts {now}")
        before = known.get("run_id")
        steps = check_extension(folder, config, len(source.train)) if config.train.extend != "no" else None
        own_tags = {**tags_of(config, source), **(tags or {})}
        run = track.begin(
            uri, config.track.experiment, name, params=config.flat(), run_id=before, again=config.track.again, parent_id=parent, tags=own_tags
        )  # fmt: skip
        if before and run.run_id != before:
            print(f"{name}: {resend(folder, run)}", flush=True)
        base = config.track.name or config.run_name
        if name != base and not quiet:
            print(
                f"{base} is finished, so this is {name}; to train it longer: --track.name {base} --train.extend exact, and more epochs",
                flush=True,
            )
        if steps and known.get("finished"):
            _reopen(lease.fenced(), run, *steps)
        return _run(config, source, lease, run, name, quiet)


def _reopen(folder: Storage, run: track.TrackedRun, done: int, total: int) -> None:
    """A finished run trains on: what it came to stays on record under its step, and its new end will measure it anew."""
    run.set_tags({"contray.extended": f"from {done} to {total} steps"})
    words = f"going on from its end at step {done} to step {total}"
    if VERDICT in folder.names():
        kept = VERDICT.replace(".json", f"-{done}.json")
        folder.write(kept, folder.read(VERDICT))
        note(folder, run)  # not finished: should this die before the verdict is gone, the same command does it again
        folder.remove(VERDICT)
        words += f"; what it measured stays in {kept}, and the test set is opened once more"
    print(words, flush=True)


def _run(config: RunConfig, source: data.Source, lease: Lease, run: track.TrackedRun, name: str, quiet: bool) -> Result:
    """The run under its lease, from its record's beginning to its end."""
    folder = lease.fenced()
    note(folder, run)
    folder.write("config.yaml", config.to_yaml().encode())
    with contextlib.suppress(track.TrackingError):  # an outage by now: what is missing at the end is recorded or said there
        record_config(run, config)
    resumed = any(PATTERN.fullmatch(found) for found in folder.names())

    if not quiet:
        print(
            f"{'going on with' if resumed else 'run'} {name}: {len(source.train):,} samples of {source.name}; {run.url}",
            flush=True,
        )
    status, ended = "FAILED", {}
    try:
        with TrainingBar(name, quiet) as bar:
            watcher = Guarded(bar, lease.check)
            ended = (
                _in_process(config, folder, run, watcher)
                if config.scale.workers == (0, 0)
                else _on_ray(config, name, folder, run, watcher)
            )
        status = "FINISHED" if ended["finished"] else "KILLED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with contextlib.suppress(OSError):  # unreadable by now: `end` says so
            folder.check()  # LeaseLost: record and status are another driver's to write
        end(folder, run, status, ended)
    return Result(name, ended["metrics"], run.run_id, run.url, folder.address, ended["step"], ended["finished"], ended)


# ---------------------------------------------------------------- where it runs


def _in_process(config: RunConfig, folder: Storage, run: track.TrackedRun, bar: Watcher) -> dict[str, Any]:
    asked = [False]

    def show(message: dict[str, Any]) -> Asked:
        bar.show(message)
        return Asked(stop=asked[0])

    threads = config.scale.cpus_per_worker or os.cpu_count() or 1
    with interrupts(asked):
        try:
            plan = Plan(config.to_yaml(), folder.address, run, threads, token=folder.token, code=code_of(config.method.name))
            return work(plan, show)
        except OSError as error:  # a disk that stays unreadable; on Ray another worker tries
            raise UserError(f"{error}; the newest checkpoint stays, and the same command goes on from it") from error


def _on_ray(config: RunConfig, name: str, folder: Fenced, run: track.TrackedRun, bar: Watcher) -> dict[str, Any]:
    with ray_session(config):
        return fit(config, name, folder, run, bar)
