"""A sweep from its space to its winner: trials as children of one MLflow run, the test set opened once, for the winner."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import data, model, track
from ..config import RunConfig
from ..config.spaces import load_space
from ..errors import ConfigError, UserError
from ..planning import keep
from ..storage import sealed
from ..storage.folder import Storage
from ..storage.names import check_case, slug
from ..training.describing import describe, sweep_title
from ..training.launch import plan_of
from ..training.lease import Fenced, Lease, held
from ..training.nodes import nodes, uses_gpu
from ..training.preflight import check_samples, check_surroundings
from ..training.ray_train import ray_session
from ..training.records import SHARED, SWEEP, check_kind, repeatable, tags_of
from ..training.settle import measure, settle
from ..training.start import refuse_searched, resolved
from ..training.stop import Status, ending
from . import kept
from .domains import describe_domain, listed
from .front import front
from .importance import Importance, importance
from .outcome import SweepResult, Trial, crown, end_trials, ranked, trials_of
from .picture import draw
from .ranking import COSTS, check_metric, online_of
from .search import LIVE_KEYS, SCHEDULERS, Search, run
from .warm import Warm, identity
from .warm import warm as read_warm

GROWING = ("samples", "minutes", "concurrent")  # what no trial depends on, so that a sweep may go on with more of it
VERSION, BEST = 2, "best.yaml"  # of how a sweep is kept; the winner's config


def sweep(
    name: str,
    overrides: Mapping[str, Any],
    *,
    samples: int = 0,
    preset: str = "",
    config_file: Path | None = None,
    metric: str = "linear_val_top1",
    against: str = "",
    warm: str = "",
    scheduler: str = "",
    grace: float = 0.4,
    concurrent: int = 0,
    minutes: float = 0.0,
    resume: bool = False,
    quiet: bool = False,
) -> SweepResult:
    """Search the space `name`; see `contray tune --help` for the options. Ranked on held-out training data (`metric`). against: what a trial
    costs, searched for beside the metric: the result's `front` is what no other trial beats in both. warm: id or name of a finished sweep.

    With rankme (Garrido et al. 2023, https://arxiv.org/abs/2210.02885) no label is read until there is a winner, and none is needed.
    """
    file = load_space(name)
    config = resolved(_base(file, overrides, preset, config_file))
    asked = {key: domain for key, domain in file.SPACE.items() if key not in overrides}
    if not asked:
        raise UserError(
            f"{next(iter(overrides))}: all that space {name} searches is given ({', '.join(file.SPACE)}): nothing is left to search"
        )
    refuse_searched(config, asked)
    if against and against not in COSTS:
        raise UserError(f"--against: got {against}, must be {', '.join(COSTS)}")
    if against and scheduler not in ("", "none"):
        raise UserError(
            f"--scheduler: {scheduler} judges by accuracy alone, and would stop what is cheap for it; --against lets all trials end, by none"
        )
    scheduler = "none" if against else scheduler or getattr(file, "SCHEDULER", "asha")
    if scheduler not in SCHEDULERS:
        raise UserError(f"--scheduler: got {scheduler}, must be {', '.join(SCHEDULERS[:-1])} or {SCHEDULERS[-1]}")
    for option, value in (("samples", samples), ("concurrent", concurrent), ("minutes", minutes)):
        whole = option != "minutes"
        if not isinstance(value, int if whole else (int, float)) or not value >= 0:  # nor not-a-number
            raise UserError(f"--{option}: got {value!r}, must be a {'whole ' * whole}number, at least 0")
    if not 0 < grace <= 1:
        raise UserError(f"--grace: got {grace:g}, must be above 0 and at most 1: the share of a run that every trial gets")
    source, storage = data.announced(config), Storage(config.scale.storage)
    base_name = config.track.name or f"tune-{slug(Path(name).stem)}-{config.digest('scale', 'track', planned=False)}"
    check_metric(metric, config, source)
    if scheduler == "pbt" and config.scale.workers[1] > 1:
        raise UserError("--scheduler pbt: works for trials of one worker only; use asha, or scale.workers 1 1")
    if scheduler == "pbt" and not LIVE_KEYS & set(asked):
        raise UserError(f"--scheduler pbt: this space has no key that may change on the way ({', '.join(sorted(LIVE_KEYS))})")
    check_samples(config, source)
    uri = check_surroundings(config, exists=bool(warm))
    # trials run in processes of Ray: nothing for a plan to choose
    config = config.replace({"scale.workers": config.scale.workers})
    config, plan = plan_of(config, source, storage, quiet, base_name)  # once for all trials
    if plan and config.data.shorter_side:
        source = data.open_source(config)  # as its trials will read it
    space, words = _fitting(config, dict(asked), len(source.train))
    words = [*(f"{key}: not searched, as you give it" for key in file.SPACE if key not in asked), *words]
    known = Warm()
    if warm:
        if scheduler == "pbt" or any(isinstance(domain, dict) for domain in space.values()):
            raise UserError(
                "--warm: a grid is tried whole, and a population learns from itself; take ranges or choices, and no pbt"
            )
        wanted = [metric, against] if against else [online_of(metric, config, source)]
        known = read_warm(warm, uri, config, space, wanted, identity(config, source, concurrent))
        words.append(known.words)
    if not resume:  # a sweep that goes on has its folder
        storage.create()
    for word in words if not quiet else ():
        print(word)

    search = Search(
        samples or getattr(file, "SAMPLES", 1), scheduler, grace, minutes, concurrent, metric,
        {key: describe_domain(domain) for key, domain in space.items()}, against, known.run_id,
    )  # fmt: skip
    check_case("track.name", base_name, storage.folders())
    home = storage / base_name  # one lease for all sweeps of the name, in the folder of the first
    if resume:
        _folder(storage, base_name, resume, search, config)  # refuses before a folder is made
    home.create()
    with held(home, quiet) as lease:
        if plan:
            config, _ = keep(lease.fenced(), config, plan)
        folder, record = _folder(storage, base_name, resume, search, config)
        return _search(search, config, space, folder, record, source, name, lease, known, quiet)


def _search(
    search: Search, config: RunConfig, space: dict[str, Any], folder: Storage, record: Mapping[str, Any], source: data.Source, name: str,
    lease: Lease, known: Warm, quiet: bool,
) -> SweepResult:  # fmt: skip
    """The sweep under its lease, from its record's beginning to its end."""
    metric, against, uri = search.metric, search.against, track.resolve_uri(config.track.uri)
    called = folder.name
    params = {**{key: value for key, value in config.flat().items() if key not in space}, **search.space}
    tags = {
        **tags_of(config, source, called),
        **identity(config, source, search.concurrent),
        "contray.kind": "sweep",
        "contray.space": Path(name).stem,
        "contray.metric": metric,
        **({"contray.against": against} if against else {}),
        **({"contray.warm": search.warm} if search.warm else {}),
    }
    parent = track.begin(
        uri,
        config.track.experiment,
        sweep_title(config, called, name),
        params=params,
        tags=tags,
        run_id=record.get("run_id"),
        again=config.track.again,
    )
    record = {
        "run_id": parent.run_id, "finished": False, "search": asdict(search), "version": VERSION, "config": config.to_yaml()
    }  # fmt: skip
    folder.create()
    place = Fenced(folder.address, lease.token, lease.folder.address)
    sealed.write(place, SWEEP, record)
    place.write("config.yaml", repeatable(config).encode())
    if not quiet:
        print(f"sweep {called}: {parent.url}", flush=True)

    def end(status: Status) -> None:
        lease.check()  # LeaseLost: what becomes of the trials is another driver's to say
        with contextlib.suppress(track.TrackingError):
            end_trials(parent)
            parent.finish(status)

    with ending(lambda: parent.finish("KILLED"), end) as how:
        with ray_session(config, dashboard=config.scale.workers[1] > 1):
            config = measure(settle(config, place, uses_gpu(config, nodes())), source, place, quiet)  # once for all trials
            online = online_of(metric, config, source)
            results = _outliving(
                search,
                config,
                space,
                folder,
                parent,
                lease,
                online,
                known,
                quiet,
                {key: tags[key] for key in SHARED if key in tags},
            )
            trials = ranked(trials_of(results, folder, parent, config), metric, online)
        on_front = front(trials, metric, against) if against else []
        best = _best(trials, metric, on_front)
        winner = None
        if best:
            place.check()
            first = trials.index(best)
            best, winner = crown(config, best, parent)
            trials[first] = best
        found: list[Importance] = []
        if search.scheduler != "pbt":  # whose trials have had other values on the way
            stages = "" if against else online
            found = [each for name in (metric, against) if name and (each := importance(trials, space, name, stages))]
        with tempfile.TemporaryDirectory() as scratch:
            made = draw(trials, space, metric, online, Path(scratch), importance=found, against=against, front=on_front)
            if winner:
                made.append(Path(scratch) / BEST)
                made[-1].write_text(winner.to_yaml())
            for path in made:
                parent.log_artifact(path)
                place.write(path.name, path.read_bytes())
            at = [Path(folder.root) / path.name if folder.local else f"{folder.address}/{path.name}" for path in made]
        describe(parent, config, called)
        if trials and trials[0].run_id:
            parent.share_inputs(trials[0].run_id)
        sealed.write(place, SWEEP, {**record, "finished": True})
        how.status = "FINISHED"
    url = track.sweep_url(uri, parent.experiment_id, parent.run_id, metric, list(space), online, against)
    pictures, config_file = (at[:-1], at[-1]) if winner else (at, None)
    return SweepResult(
        called, metric, trials, best, config_file, pictures[0], parent.run_id, url, space, parent.url, uri, against, on_front, found, pictures
    )  # fmt: skip


def _best(trials: Sequence[Trial], metric: str, on_front: Sequence[str]) -> Trial | None:
    """The first of the ranked trials that has finished with a number; of equally good ones the cheapest, which a front begins with."""
    able = [each for each in trials if each.status == "finished" and math.isfinite(each.metrics.get(metric, math.nan))]
    return next((each for each in able if each.name in on_front[:1]), next(iter(able), None))


def _outliving(search: Search, config: RunConfig, *about: Any) -> Any:
    """Tune's results. Trials whose process died, as with a node that was taken away, go on from their checkpoints, scale.max_failures times."""
    from ray.exceptions import RayActorError

    ends, deaths = time.monotonic() + 60 * search.minutes if search.minutes else math.inf, 0
    while True:
        left = (ends - time.monotonic()) / 60 if search.minutes else 0.0
        results = run(replace(search, minutes=left), config, *about)
        died = sum(isinstance(result.error, RayActorError) for result in results)
        if not died or deaths == config.scale.max_failures or time.monotonic() > ends:
            return results
        deaths += 1
        words = (
            "1 trial that died with its process or node goes"
            if died == 1
            else f"{died} trials that died with their processes or nodes go"
        )
        print(f"{words} on from the newest checkpoint", flush=True)


def _base(file: ModuleType, overrides: Mapping[str, Any], preset: str, config_file: Path | None) -> RunConfig:
    settings = {**getattr(file, "BASE", {}), **overrides}
    if config_file is None:
        return RunConfig.make(file.METHOD, settings, preset=preset)
    return RunConfig.from_file(config_file, settings, method=file.METHOD, preset=preset)


def _fitting(config: RunConfig, space: dict[str, Any], samples: int) -> tuple[dict[str, Any], list[str]]:
    """The space without the listed values that this data or config refuses, and what was left out: of a key that is left with none, and that a
    plan has filled, the plan's value stands. Raises where nobody has filled it, or nothing is left to search.
    """
    from ray import tune

    words = []
    for key, domain in list(space.items()):
        values = listed(domain)
        ends = values if values is not None else [domain.lower, domain.upper]  # pyright: ignore[reportAttributeAccessIssue]
        refused: dict[int, str] = {}  # by place: a value may be a list
        for place, value in enumerate(ends):
            try:
                model.check(config.replace({key: value}), samples)
            except ConfigError as error:
                refused[place] = error.problem if error.key == key else str(error)
        if len(refused) == len(ends) and config.fills(key) and len(space) > 1:
            del space[key]
            words.append(f"{key}: not searched, the plan's {config.flat()[key]} stands ({next(iter(refused.values()))})")
            continue
        if refused and (values is None or len(refused) == len(ends)):
            raise ConfigError(key, f"this space cannot be searched here: {next(iter(refused.values()))}")
        if refused and values is not None:
            kept = [value for place, value in enumerate(values) if place not in refused]
            space[key] = {"grid_search": kept} if isinstance(domain, dict) else tune.choice(kept)
            words.append(f"{key}: {', '.join(str(values[place]) for place in refused)} left out ({next(iter(refused.values()))})")
    return space, words


def _folder(storage: Storage, base: str, resume: bool, search: Search, config: RunConfig) -> tuple[Storage, Mapping[str, Any]]:
    """A new folder for the sweep, or with `resume` that of the newest of its name, and what is on record of it."""
    number, newest, folder = 1, None, storage / base
    check_kind(folder, SWEEP)
    while SWEEP in folder.names():
        number, newest, folder = number + 1, folder, storage / f"{base}-{number + 1}"
    if not resume:
        return folder, {}
    if newest is None:
        raise UserError(f"--resume: there is no sweep {base} under {storage.address}")
    record, called = kept.read(newest, SWEEP), newest.name
    if record.get("version") != VERSION:
        raise UserError(
            f"--resume: {called} was begun by another version, whose trials are kept otherwise; without --resume a new one starts"
        )
    if record.get("finished"):
        raise UserError(f"--resume: {called} is finished, and its winner has met the test set; without --resume a new one starts")
    before, now = record.get("search"), asdict(search)
    if isinstance(before, dict):
        before = {"against": "", "warm": "", **before}  # sweeps of before there were these
    if not isinstance(before, dict) or before.keys() != now.keys() or not record.get("run_id"):
        raise UserError(f"--resume: {newest.address}/{SWEEP} is damaged; without --resume a new sweep starts")
    free = () if now["scheduler"] == "pbt" else GROWING  # a population's size is its own
    changed = [f"{key} ({before[key]} -> {value})" for key, value in now.items() if before[key] != value and key not in free]
    if now["samples"] < before["samples"]:
        changed.append(f"samples ({before['samples']} -> {now['samples']}); more are added, none are taken away")
    if "config" in record:
        changed += kept.differing(record["config"], config)  # else trials of two configs would be ranked with each other
    if changed:
        raise UserError(f"--resume: {called} was begun otherwise: {', '.join(changed)}")
    return newest, record
