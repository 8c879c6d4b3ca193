"""The same config under several seeds: children of one MLflow run, a record and a lease of the group, and the means at the end."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

from .. import data, model, track
from ..config import RunConfig
from ..errors import UserError
from ..names import check_case
from .checkpoint import PATTERN, Storage
from .launch import Result, launch
from .lease import Lease, held
from .ray_train import check_machines, ray_session
from .records import SEEDS, check_kind, read, tags_of
from .worker import VERDICT


def launch_seeds(config: RunConfig, seeds: int, *, quiet: bool = False) -> list[Result]:
    """Run a config under `seeds` consecutive seeds, or go on with a group of its name that lacks some of them.

    Seeds that are finished are not run again; more seeds than before join the same group. A group that lacks none is left as it is: the same
    command begins name-2. An interrupt ends the group where it is: the last result is then not finished.
    """
    source = data.open_source(config.data)
    model.check(config, len(source.train))
    data.check_views(source.train, config.views)
    check_machines(config)
    track.check(track.resolve_uri(config.track.uri))
    storage = Storage(config.scale.storage)
    storage.create()
    base = config.track.name or f"{config.run_name}-seeds"
    check_case("track.name", base, storage.folders())
    home = storage / base  # one lease for all groups of the name, in the folder of the first
    home.create()
    with held(home, quiet) as lease:
        return _run(config, source, seeds, storage, base, lease, quiet)


def _run(
    config: RunConfig, source: data.Source, seeds: int, storage: Storage, base: str, lease: Lease, quiet: bool
) -> list[Result]:
    name, record = _group(config, seeds, storage, base)
    own = [
        replace(config, seed=seed, track=replace(config.track, name=f"{name}-s{seed}"))
        for seed in range(config.seed, config.seed + seeds)
    ]
    folder, uri = storage / name, track.resolve_uri(config.track.uri)
    folder.create()
    tags = {**tags_of(config, source), "contray.kind": "seeds"}
    params = {key: value for key, value in config.flat().items() if key not in ("seed", "track.name")}
    parent = track.begin(
        uri, config.track.experiment, name, params=params, tags=tags, run_id=record.get("run_id"), again=config.track.again
    )
    known = {"run_id": parent.run_id, "digest": config.digest("scale", "track"), "seeds": max(seeds, record.get("seeds", 0))}
    folder.write(SEEDS, json.dumps({**known, "finished": False}).encode())
    results: list[Result] = []
    status = "FAILED"
    try:
        with ray_session(config) if config.scale.workers != (0, 0) else contextlib.nullcontext():
            for child in own:
                lease.check()
                done = _finished(storage / child.track.name, parent)
                if done and not quiet:
                    print(f"{done.name} is finished: {done.url}", flush=True)
                results.append(done or launch(child, quiet=quiet, parent=parent.run_id, tags={"contray.kind": "seed"}))
                if not results[-1].finished:
                    status = "KILLED"
                    return results
        status = "FINISHED"
        folder.write(SEEDS, json.dumps({**known, "finished": True}).encode())
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        lease.check()
        try:
            if status == "FINISHED":
                means = {key: sum(each.metrics[key] for each in results) / seeds for key in results[0].metrics}
                parent.log_metrics(means, step=results[0].step)
                parent.set_tags({"contray.seeds": str(seeds)})
            parent.finish(status)
        except track.TrackingError as error:
            print(f"contray: {name} could not be ended in MLflow ({error}); each seed is recorded by itself", flush=True)
    return results


def _group(config: RunConfig, seeds: int, storage: Storage, base: str) -> tuple[str, dict[str, Any]]:
    """The name of the group and what is on record of it: one that lacks seeds goes on, after one that lacks none comes name-2."""
    name, number = base, 1
    while True:
        check_kind(storage / name, SEEDS)
        record = _record(storage / name)
        if record and record["digest"] != config.digest("scale", "track"):
            raise UserError(f"track.name: {name} is a group of seeds of another config; give this one another --track.name")
        if not (record.get("finished") and record["seeds"] >= seeds):
            return name, record
        number += 1
        name = f"{base}-{number}"


def _record(folder: Storage) -> dict[str, Any]:
    if SEEDS not in folder.names():
        return {}
    try:
        found = json.loads(folder.read(SEEDS))
        return {**found, "digest": str(found["digest"]), "seeds": int(found["seeds"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder.address}/{SEEDS} is damaged ({error!r}); remove it: the seeds go on, under a new MLflow run"
        ) from None


def _finished(folder: Storage, parent: track.TrackedRun) -> Result | None:
    """What a seed came to that has reached its end; None for one that has not."""
    record = read(folder)
    if not record.get("finished"):
        return None
    names = folder.names()
    metrics = json.loads(folder.read(VERDICT)) if VERDICT in names else {}
    step = max((int(found[1]) for name in names if (found := PATTERN.fullmatch(name))), default=0)
    url = track.run_url(parent.uri, parent.experiment_id, record["run_id"])
    name = folder.address.rstrip("/").rpartition("/")[2]
    return Result(name, metrics, record["run_id"], url, folder.address, step, True, {"unsent": record.get("unsent", 0)})
