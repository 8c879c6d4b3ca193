"""The same config under several seeds: children of one MLflow run, a record and a lease of the group, and the means at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .. import data, model, track
from ..config import RunConfig
from ..errors import UserError
from ..evaluation import Measured
from ..evaluation.common.verdict import over_seeds
from ..planning import guard, keep
from ..storage import sealed
from ..storage.checkpoint import newest_step
from ..storage.folder import Storage
from ..storage.names import check_case
from .describing import describe, title_of
from .launch import launch, plan_of
from .lease import Lease, held
from .preflight import check_config, check_surroundings
from .ray_train import cluster_of, ray_session
from .records import SEEDS, check_kind, note, read, repeatable, tags_of
from .result import Result
from .start import resolved
from .stop import Status, ending, stoppable
from .worker import TOLD, VERDICT

KINDS: sealed.Kinds = {"run_id": str, "config": str, "seeds": int, "finished": bool}


def launch_seeds(config: RunConfig, seeds: int, *, quiet: bool = False, yes: bool = False) -> list[Result]:
    """Run a config under `seeds` consecutive seeds, or go on with a group of its name that lacks some of them.

    Seeds that are finished are not run again; more seeds than before join the same group. A group that lacks none is left as it is: the same
    command begins name-2. An interrupt ends the group where it is: the last result is then not finished. A plan (preset auto) is made once, for all.
    """
    with stoppable():
        return _launch(config, seeds, quiet, yes)


def _launch(config: RunConfig, seeds: int, quiet: bool, yes: bool) -> list[Result]:
    config = resolved(config)
    source, storage = data.announced(config, quiet), Storage(config.scale.storage)
    base = config.track.name or f"{config.run_name}-seeds"
    config, plan = plan_of(config, source, storage, quiet, base)
    check_config(config, source)
    check_surroundings(config)
    if not cluster_of(config) and base not in storage.folders():
        guard(config, source, yes=yes, quiet=quiet, cost=plan and plan.cost, seeds=seeds)
    storage.create()
    check_case("track.name", base, storage.folders())
    home = storage / base  # one lease for all groups of the name, in the folder of the first
    home.create()
    with held(home, quiet) as lease:
        if plan:
            config, plan = keep(lease.fenced(), config, plan)
        return _run(
            config, source, seeds, storage, base, lease, quiet, {"contray.plan": str(plan)} if plan and plan.lines else {}
        )


def _run(
    config: RunConfig,
    source: data.Source,
    seeds: int,
    storage: Storage,
    base: str,
    lease: Lease,
    quiet: bool,
    tags: dict[str, str],
) -> list[Result]:
    name, record = _group(config, seeds, storage, base)
    own = [
        replace(config, seed=seed, track=replace(config.track, name=f"{name}-s{seed}"))
        for seed in range(config.seed, config.seed + seeds)
    ]
    folder, uri = storage / name, track.resolve_uri(config.track.uri)
    folder.create()
    own_tags = {**tags_of(config, source, name), **tags, "contray.kind": "seeds"}
    params = {key: value for key, value in config.flat().items() if key not in ("seed", "track.name", *model.open_keys(config))}
    parent = track.begin(
        uri,
        config.track.experiment,
        title_of(config, name),
        params=params,
        tags=own_tags,
        run_id=record.get("run_id"),
        again=config.track.again,
    )
    known = {"run_id": parent.run_id, "config": config.digest("scale", "track"), "seeds": max(seeds, record.get("seeds", 0))}
    sealed.write(folder, SEEDS, {**known, "finished": False})
    folder.write("config.yaml", repeatable(config).encode())
    results: list[Result] = []

    def end(status: Status) -> None:
        lease.check()
        _end(parent, name, status, results)
        with contextlib.suppress(track.TrackingError):
            describe(parent, config, name)
            if results:
                parent.share_inputs(results[0].run_id)

    with ending(lambda: parent.finish("KILLED"), end) as how:
        with ray_session(config) if config.scale.workers != (0, 0) else contextlib.nullcontext():
            for child in own:
                lease.check()
                done = _finished(storage / child.track.name, child, parent, quiet)
                if done and not quiet:
                    print(f"{done.name} is finished: {done.url}", flush=True)
                results.append(
                    done
                    or launch(
                        child,
                        quiet=quiet,
                        parent=parent.run_id,
                        tags={**tags, "contray.kind": "seed"},
                        title=f"seed {child.seed}",
                    )
                )
                if not results[-1].finished:
                    how.status = "KILLED"  # the one signal was for all of them
                    return results
        sealed.write(folder, SEEDS, {**known, "finished": True})
        how.status = "FINISHED"
    return results


def _end(parent: track.TrackedRun, name: str, status: Status, results: Sequence[Result]) -> None:
    """Tell MLflow how the group ended, with the means of what all its seeds were measured by."""
    try:
        if status == "FINISHED":
            common = [key for key in results[0].metrics if all(key in each.metrics for each in results)]
            means = {key: sum(each.metrics[key] for each in results) / len(results) for key in common}
            parent.log_metrics(means, step=results[0].step)
            said = over_seeds([each.metrics for each in results])
            parent.set_tags({"contray.seeds": str(len(results)), **({TOLD: said} if said else {})})
        parent.finish(status)
    except track.TrackingError as error:
        print(f"contray: {name} could not be ended in MLflow ({error}); each seed is recorded by itself", flush=True)


def _group(config: RunConfig, seeds: int, storage: Storage, base: str) -> tuple[str, dict[str, Any]]:
    """The name of the group and what is on record of it: one that lacks seeds goes on, after one that lacks none comes name-2."""
    name, number = base, 1
    while True:
        check_kind(storage / name, SEEDS)
        record = _record(storage / name)
        if record and record["config"] != config.digest("scale", "track"):
            raise UserError(f"track.name: {name} is a group of seeds of another config; give this one another --track.name")
        if not (record.get("finished") and record["seeds"] >= seeds):
            return name, record
        number += 1
        name = f"{base}-{number}"


def _record(folder: Storage) -> dict[str, Any]:
    try:
        return sealed.read(folder, SEEDS, KINDS, needed=("run_id", "config", "seeds")) or {}
    except sealed.Damaged as error:
        raise UserError(f"{error}; remove it: the seeds go on, under a new MLflow run") from None


def _finished(folder: Storage, config: RunConfig, parent: track.TrackedRun, quiet: bool) -> Result | None:
    """What a seed came to that has reached its end; None for one that has not, or whose verdict is lost: it goes on, to be measured anew."""
    record = read(folder)
    if not record.get("finished"):
        return None
    metrics = None
    with contextlib.suppress(sealed.Damaged):  # whoever measures says so
        metrics = sealed.read(folder, VERDICT, sealed.NUMBER)
    if metrics is None and config.eval.final:
        with held(folder, quiet) as lease:  # of a finished run the same command begins name-2
            run = track.TrackedRun(record.get("uri") or parent.uri, parent.experiment_id, record["run_id"])
            note(lease.fenced(), run, **{**record, "finished": False})
        return None
    step = newest_step(folder)
    url = track.run_url(parent.uri, parent.experiment_id, record["run_id"])
    name = folder.name
    found = Measured(metrics or {})
    details = {"about": found.about, "unsent": record.get("unsent", 0)}
    return Result(name, dict(found), record["run_id"], url, folder.address, step, True, details, config)
