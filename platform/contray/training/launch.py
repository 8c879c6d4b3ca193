"""The driver's side of a run: name it, record it, start its workers, watch them, tell how it ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import data, model, track
from ..config import RunConfig
from ..config.registry import code_of, own_code
from ..errors import ConfigError, UserError, existing
from ..planning import Plan, adopted, guard, keep, planned
from ..planning.facts import cluster_of
from ..processors import cores
from ..storage.checkpoint import latest, newest_step
from ..storage.folder import Storage
from ..tables import hanging
from .audit import check_audit
from .describing import describe, title_of
from .extend import check_extension, extends_exactly
from .lease import Fenced, Guarded, Lease, LeaseLost, NotSeen, Watcher, held
from .nodes import kinds, nodes, uses_gpu
from .preflight import check_config, check_surroundings
from .progress import TROUBLES, TrainingBar, lasting
from .ray_train import check_machines, fit, ray_session
from .records import FAILURE, FOLDER, end, name_of, note, record_config, repeatable, tags_of
from .resend import resend
from .restore import check_fits, check_kept
from .result import Result
from .settle import measure, settle
from .start import guides_of, marks, resolved, started
from .stop import Status, interrupts, stoppable, telling_the_end
from .worker import UNMEASURED, VERDICT, Asked, TrainingJob, work


def launch(
    config: RunConfig,
    *,
    quiet: bool = False,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
    title: str = "",
    yes: bool = False,
    watch: Callable[[dict[str, Any]], bool] | None = None,
) -> Result:
    """Run a config to its end, or go on with an unfinished run of the same name. Everything that can be refused is refused before Ray starts.

    parent: MLflow run that this one is a child of; title: its name in MLflow, else one that says what it is. quiet: no progress bar.
    yes: may take more than a day on a CPU. watch: is given the messages of its progress; True: it is to stop, with a checkpoint.
    """
    with stoppable():
        return _launch(config, quiet, parent, tags or {}, title, yes, watch)


def _launch(
    config: RunConfig, quiet: bool, parent: str | None, tags: Mapping[str, str], title: str, yes: bool,
    watch: Callable[[dict[str, Any]], bool] | None,
) -> Result:  # fmt: skip
    config = resolved(config)
    source = data.announced(config, quiet or parent is not None)
    config, plan = plan_of(config, source, Storage(config.scale.storage), quiet)
    if plan and config.data.shorter_side:
        source = data.open_source(config)  # as its workers will read it
    check_config(config, source)
    uri = check_surroundings(config)
    storage = Storage(config.scale.storage)
    if not (parent or cluster_of(config) or (storage.folders() and name_of(config, storage, quiet=True)[1])):
        guard(config, source, yes=yes, quiet=quiet, cost=plan and plan.cost)
    storage.create()
    if config.train.audit:
        check_audit(storage)
    name, _ = name_of(config, storage, quiet=True)
    folder = storage / name
    folder.create()
    with held(folder, quiet) as lease:
        now, known = name_of(config, storage)
        if now != name:
            raise UserError(f"track.name: another process has just finished {name}; the same command again starts {now}")
        if plan:
            config, plan = keep(lease.fenced(), config, plan)
            tags = {**tags, **({"contray.plan": str(plan)} if plan.lines else {})}
        config = measure(config, source, lease.fenced(), quiet)
        if not cluster_of(config):  # else the workers' hardware says, which is not in reach yet
            config = settle(config, lease.fenced())
        undecided = model.open_keys(config)
        params = {key: value for key, value in config.flat().items() if key not in undecided}
        steps = _check_kept(folder, config, source, bool(known.get("finished")))
        before, own = known.get("run_id"), {FOLDER: folder.address, **({FAILURE: ""} if known else {})}
        run = track.begin(
            uri, config.track.experiment, title or title_of(config, name), params=params, run_id=before, again=config.track.again, parent_id=parent,
            tags={**tags_of(config, source, name), **own, **tags},
        )  # fmt: skip
        with stoppable(lambda: run.finish("KILLED")):
            if before and run.run_id != before:
                print(f"{name}: {resend(folder, run)}", flush=True)
            base = config.track.name or config.run_name
            if name != base and not quiet:
                exact = extends_exactly(config, model.sketch(config), len(source.train))
                longer = (
                    f"--track.name {base} --train.extend exact, and more than its {newest_step(storage / base)} --train.steps"
                )
                print(f"{base} is finished, so this is {name}{f'; to train it longer: {longer}' if exact else ''}", flush=True)
            if steps and known.get("finished"):
                _reopen(lease.fenced(), run, *steps)
            return _run(config, source, lease, run, name, quiet, watch)


def waiting(config: RunConfig, source: data.Source) -> str:
    """What lies under the name of a run that would begin now, in words; nothing where nothing does. Raises what its start would raise for it."""
    storage = Storage(config.scale.storage)
    place = Path(storage.root)
    if storage.local and place.exists() and not place.is_dir():
        raise UserError(f"scale.storage: {storage.address} is a file; name a folder")
    if storage.local and not os.access(there := existing(place), os.W_OK):
        raise UserError(f"scale.storage: cannot write to {there}; mend that, or choose another with --scale.storage")
    base = config.track.name or config.run_name
    if base not in storage.folders():
        return ""
    name, known = name_of(config, storage, quiet=True)
    if name != base:
        return f"{base} is finished: this would be {name}"
    if not known:
        return ""
    _check_kept(storage / name, config, source, bool(known.get("finished")))
    return f"{name} is there with step {newest_step(storage / name)}, and would go on"


def plan_of(
    config: RunConfig, source: data.Source, storage: Storage, quiet: bool, name: str = ""
) -> tuple[RunConfig, Plan | None]:
    """The config with the digests of the weights that it is given, and with its plan, where one is to be made: those of the run `name` (by default
    its own) that is to go on, else new ones, told.
    """
    there = storage / (name or name_of(config, storage, quiet=True)[0]) if storage.folders() else None
    config, start = started(config, there)
    plan = adopted(there, config, len(source.train)) if config.unplanned and there else None
    if plan:
        config, plan = plan
    elif config.unplanned:
        check_machines(config)
        if cluster_of(config) and config.scale.gpus_per_worker and model.device_of(config).type == "cpu":
            raise ConfigError(
                "method.preset",
                "auto plans for the machine that it runs on, which has no GPU where the workers have; give --preset or --config, or let "
                "`--dry-run --show-config` write a config on a machine with such a GPU",
            )
        config, plan = planned(config, source, name, start.network)
        if not quiet:
            print(hanging(str(plan), 9), flush=True)
    told = [f"begins with {words}" for words in start.words(config)] + [
        f"learns from {words}" for words in guides_of(config).values()
    ]
    for words in told if not quiet else ():
        print(words, flush=True)
    return config, plan


def _check_kept(folder: Storage, config: RunConfig, source: data.Source, finished: bool) -> tuple[int, int] | None:
    """Refuse what the run in `folder` cannot go on as, before its record is touched; for train.extend the steps that it has and is to have."""
    if config.train.extend == "no":
        check_kept(folder, config, model.open_keys(config))
        return None
    state = latest(folder)
    if state is None:
        raise UserError(f"train.extend: there is no checkpoint in {folder.address} to go on from")
    steps = check_extension(state, config, len(source.train), finished)
    # before its verdict is removed, which training on does
    check_fits(state, config, data.fingerprint(source, config.data) | own_code(config) | marks(config), model.open_keys(config))
    return steps


def _reopen(folder: Storage, run: track.TrackedRun, done: int, total: int) -> None:
    """A finished run trains on: what it came to stays on record under its step, and its new end will measure it anew."""
    longer = f"from {done} to {total} steps"
    run.set_tags({"contray.extended": longer})
    words = f"going on from its end at step {done} to step {total}"
    if VERDICT in folder.names():
        kept = VERDICT.replace(".json", f"-{done}.json")
        folder.write(kept, folder.read(VERDICT))
        note(folder, run)  # not finished: should this die before the verdict is gone, the same command does it again
        folder.remove(VERDICT)
        words += f"; what it measured stays in {kept}, and the test set is opened once more"
    print(words, flush=True)


def _run(
    config: RunConfig, source: data.Source, lease: Lease, run: track.TrackedRun, name: str, quiet: bool,
    watch: Callable[[dict[str, Any]], bool] | None,
) -> Result:  # fmt: skip
    """The run under its lease, from its record's beginning to its end. MLflow is told how it ended, whatever ends it."""
    folder, status, ended, reason = lease.folder, "FAILED", {}, ""
    bar = TrainingBar(name, quiet)
    lease.trouble = lambda what, words: bar.show({f"{TROUBLES}{what}": words})
    try:
        folder = lease.fenced()
        _begin(folder, run, config, name)
        runs_url = track.runs_url(run.uri, run.experiment_id)
        begun = newest_step(folder)
        if "train.steps" in config.train.planned and not begun:
            bar.promised = 60 * config.train.budget
        if not quiet:
            begins = "going on with" if begun else "run"
            print(f"{begins} {name}: {len(source.train):,} samples of {source.name}; {run.url}", flush=True)
        with bar:
            watcher = Guarded(bar, lease.check, watch)
            ended = (
                _in_process(config, folder, run, watcher)
                if config.scale.workers == (0, 0)
                else _on_ray(config, name, folder, run, watcher)
            )
        status = "FINISHED" if ended["finished"] else "KILLED"
        if ended["finished"] and ended["step"] == begun and not ended.get("unmeasured"):
            with contextlib.suppress(track.TrackingError):
                run.set_tags({UNMEASURED: ""})  # of the call before
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except (LeaseLost, NotSeen) as error:
        reason = str(error)
        raise
    except UserError as error:
        reason = f"{str(error).rstrip('.')}{_what_exists(folder, bar)}"
        error.args = (reason,)
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        with telling_the_end():
            _end(lease, folder, run, status, ended, reason)
    with contextlib.suppress(track.TrackingError):  # `contray sync` writes it
        describe(run, config, name)
    ended["runs_url"] = runs_url
    return Result(name, ended["metrics"], run.run_id, run.url, folder.address, ended["step"], ended["finished"], ended, config)


def _begin(folder: Storage, run: track.TrackedRun, config: RunConfig, name: str) -> None:
    try:
        note(folder, run)
        folder.write("config.yaml", repeatable(config).encode())
    except OSError as error:
        raise UserError(f"scale.storage: cannot write to {folder.address} ({error})") from error
    with contextlib.suppress(track.TrackingError):  # an outage by now: what is missing at the end is recorded or said there
        record_config(run, config)
        describe(run, config, name)


def _end(lease: Lease, folder: Storage, run: track.TrackedRun, status: Status, ended: Mapping[str, Any], reason: str) -> None:
    """Tell how the run ended, unless that is another driver's to tell. Raises LeaseLost then."""
    try:
        lease.fenced()
    except LeaseLost as lost:
        if not lost.holder:  # a driver that took over and has ended has told; else nobody will
            with contextlib.suppress(track.TrackingError):
                if run.status() == "RUNNING":
                    run.finish("FAILED")
        raise
    except (OSError, NotSeen):
        pass  # `end` says so
    end(folder, run, status, ended, reason)


def _what_exists(folder: Storage, bar: TrainingBar) -> str:
    """What is left of a run that failed while it trained: how far it went, and what the same command can go on from."""
    if "step" not in bar.seen:
        return ""
    went = f". It went on to step {bar.seen['step']}"
    try:
        step = newest_step(folder)
    except OSError as error:
        return f"{went}; whether there is a checkpoint cannot be told ({error})"
    if not step:
        return f"{went}; no checkpoint exists"
    age = f" ({lasting(bar.safe_seconds())} before the end)" if bar.seen.get("durable") == step else ""
    return f"{went}; the last durable checkpoint is of step {step}{age}, and the same command goes on from it"


# ---------------------------------------------------------------- where it runs


def _in_process(config: RunConfig, folder: Storage, run: track.TrackedRun, bar: Watcher) -> dict[str, Any]:
    asked = [False]

    def show(message: dict[str, Any]) -> Asked:
        stop = bar.show(message)
        return Asked(stop=bool(asked[0] or stop))

    threads = config.scale.cpus_per_worker or cores()
    with interrupts(asked):
        try:
            job = TrainingJob(config.to_yaml(), folder.address, run, threads, token=folder.token, code=code_of(config))
            return work(job, show)
        except OSError as error:  # a disk that stays unreadable; on Ray another worker tries
            raise UserError(str(error)) from error


def _on_ray(config: RunConfig, name: str, folder: Fenced, run: track.TrackedRun, bar: Watcher) -> dict[str, Any]:
    with ray_session(config):
        with contextlib.suppress(track.TrackingError):
            run.set_tags({"contray.nodes": kinds(nodes())})
        if model.open_keys(config):
            config = settle(config, folder, uses_gpu(config, nodes()))
            folder.write("config.yaml", repeatable(config).encode())
            with contextlib.suppress(track.TrackingError):
                run.log_params({key: config.flat()[key] for key in model.HARDWARE})
                record_config(run, config)
        return fit(config, name, folder, run, bar)
