"""Search: Ray Tune over the config's dotted keys, trials as children of one MLflow run, the test set opened once, for the winner."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from . import data, model, track
from .config import RunConfig
from .errors import ConfigError, UserError
from .registry import load_space
from .training.checkpoint import Storage
from .training.ray_train import check_machines, ray_session
from .training.records import tags_of
from .trial import ENDED, ONLINE, RECORD, TrialPlan, run_trial

UNLABELLED = "rankme"
METRICS = (ONLINE, "linear_val_top1", UNLABELLED)
SWEEP = "sweep.json"
LIVE_KEYS = {  # what PBT may change on the way: read at every step, and no state depends on it
    *("method.temperature", "method.momentum", "augment.strength"),
    *("optim.lr", "optim.lr_end", "optim.gamma", "optim.clip"),
}


@dataclass(frozen=True)
class Trial:
    """One trial as it ended: `status` is finished, stopped (by the scheduler or the time budget) or failed."""

    name: str
    params: Mapping[str, Any]
    status: str
    metrics: Mapping[str, float]
    run_id: str
    folder: str
    step: int
    problem: str = ""


@dataclass(frozen=True)
class SweepResult:
    """A sweep as it ended: trials ranked best first, the winner's config, the MLflow parent run and the comparison's link."""

    name: str
    metric: str
    trials: list[Trial]
    best: Trial | None
    best_config: Path | None
    plots: Path
    run_id: str
    url: str
    space: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """How a space is searched; what `--resume` must find unchanged."""

    samples: int
    scheduler: str
    grace: float
    minutes: float
    concurrent: int
    metric: str
    space: Mapping[str, str]  # key -> its domain in words


def sweep(
    name: str,
    overrides: Mapping[str, Any],
    *,
    samples: int = 0,
    preset: str = "",
    config_file: Path | None = None,
    metric: str = "linear_val_top1",
    scheduler: str = "",
    grace: float = 0.4,
    concurrent: int = 0,
    minutes: float = 0.0,
    resume: bool = False,
    quiet: bool = False,
) -> SweepResult:
    """Search the space `name`; see `contray tune --help` for the options. Ranked on held-out training data (`metric`).

    With rankme (Garrido et al. 2023, https://arxiv.org/abs/2210.02885) no label is read until there is a winner, and none is needed.
    """
    file = load_space(name)
    config = _base(file, overrides, preset, config_file)
    if metric not in METRICS:
        raise UserError(f"--metric: got {metric}, must be {' or '.join(METRICS)}; the test set selects nothing")
    scheduler = scheduler or getattr(file, "SCHEDULER", "asha")
    if scheduler not in ("asha", "pbt", "none"):
        raise UserError(f"--scheduler: got {scheduler}, must be asha, pbt or none")
    if samples < 0 or concurrent < 0 or minutes < 0 or not 0 < grace <= 1:
        raise UserError("--samples, --concurrent and --minutes must not be negative, --grace must be above 0 and at most 1")
    source = data.open_source(config.data)
    if source.train.labels is None and metric != UNLABELLED:
        raise UserError(
            f"data.source: {source.name} has no labels, and {metric} ranks on held-out labels; --metric {UNLABELLED} needs none"
        )
    if not config.eval.final:
        raise ConfigError("eval.final", "got false, and trials are ranked on what it measures")
    if scheduler == "pbt" and config.scale.workers[1] > 1:
        raise UserError("--scheduler pbt: works for trials of one worker only; use asha, or scale.workers 1 1")
    if scheduler == "pbt" and not LIVE_KEYS & set(file.SPACE):
        raise UserError(f"--scheduler pbt: this space has no key that may change on the way ({', '.join(sorted(LIVE_KEYS))})")
    check_machines(config)
    space, left_out = _fitting(config, dict(file.SPACE), len(source.train))
    uri = track.resolve_uri(config.track.uri)
    track.check(uri)
    storage = Storage(config.scale.storage)
    storage.create()
    for word in left_out if not quiet else ():
        print(word)

    from .report import describe_domain

    search = Search(
        samples or getattr(file, "SAMPLES", 1), scheduler, grace, minutes, concurrent, metric, {key: describe_domain(domain) for key, domain in space.items()}
    )  # fmt: skip
    base_name = config.track.name or f"tune-{Path(name).stem}-{config.digest('scale', 'track')}"
    folder, record = _folder(storage, base_name, resume, search)
    params = {**{key: value for key, value in config.flat().items() if key not in space}, **search.space}
    tags = {**tags_of(config, source), "contray.kind": "sweep", "contray.space": Path(name).stem, "contray.metric": metric}
    parent = track.begin(uri, config.track.experiment, folder.name, params=params, tags=tags, run_id=record.get("run_id"))
    record = {"run_id": parent.run_id, "finished": False, "search": asdict(search)}
    folder.mkdir(parents=True, exist_ok=True)
    Storage(str(folder)).write(SWEEP, json.dumps(record).encode())
    if not quiet:
        print(f"sweep {folder.name}: {parent.url}", flush=True)

    status = "FAILED"
    try:
        with ray_session(config, dashboard=config.scale.workers[1] > 1):
            trials = _ranked(_trials(_run(search, config, space, folder, parent, resume, quiet), folder, parent), metric)
        best = next((trial for trial in trials if trial.status == "finished" and metric in trial.metrics), None)
        best_config = None
        if best:
            best, best_config = _crown(config, best, parent, folder)
            trials[0] = best
        plots = _plots(trials, space, metric, folder, parent)
        Storage(str(folder)).write(SWEEP, json.dumps({**record, "finished": True}).encode())
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with contextlib.suppress(track.TrackingError):
            _end_trials(parent)
            parent.finish(status)
    url = track.compare_url(uri, parent.experiment_id, [trial.run_id for trial in trials if trial.run_id])
    result = SweepResult(folder.name, metric, trials, best, best_config, plots, parent.run_id, url, space)
    if not quiet:
        from .report import show_sweep

        show_sweep(result, parent.url)
    return result


# ---------------------------------------------------------------- before


def _base(file: ModuleType, overrides: Mapping[str, Any], preset: str, config_file: Path | None) -> RunConfig:
    settings = {**getattr(file, "BASE", {}), **overrides}
    if config_file is None:
        return RunConfig.make(file.METHOD, settings, preset=preset)
    return RunConfig.from_file(config_file, settings, method=file.METHOD, preset=preset)


def _fitting(config: RunConfig, space: dict[str, Any], samples: int) -> tuple[dict[str, Any], list[str]]:
    """The space without the listed values that this data or config refuses, and what was left out. Raises when a key is left with none."""
    from ray import tune

    words = []
    for key, domain in space.items():
        values = domain["grid_search"] if isinstance(domain, dict) else getattr(domain, "categories", None)
        ends = values if values is not None else [domain.lower, domain.upper]  # pyright: ignore[reportAttributeAccessIssue]
        refused: dict[Any, str] = {}
        for value in ends:
            try:
                model.check(config.replace({key: value}), samples)
            except ConfigError as error:
                refused[value] = error.problem
        if refused and (values is None or len(refused) == len(ends)):
            raise ConfigError(key, f"this space cannot be searched here: {next(iter(refused.values()))}")
        if refused and values is not None:
            kept = [value for value in values if value not in refused]
            space[key] = {"grid_search": kept} if isinstance(domain, dict) else tune.choice(kept)
            words.append(f"{key}: {', '.join(map(str, refused))} left out ({next(iter(refused.values()))})")
    return space, words


def _folder(storage: Storage, base: str, resume: bool, search: Search) -> tuple[Path, Mapping[str, Any]]:
    """A new folder for the sweep, or with `resume` that of the newest of its name, and what is on record of it."""
    if not storage.local:
        raise UserError(
            "scale.storage: a sweep keeps its state on a local or shared path; trials cannot start from an object store"
        )
    number, newest, folder = 1, None, Path(storage.root) / base
    while (folder / SWEEP).exists():
        number, newest, folder = number + 1, folder, Path(storage.root) / f"{base}-{number + 1}"
    if not resume:
        return folder, {}
    if newest is None:
        raise UserError(f"--resume: there is no sweep {base} under {storage.address}")
    record = json.loads((newest / SWEEP).read_text())
    if record["finished"]:
        raise UserError(
            f"--resume: {newest.name} is finished, and its winner has met the test set; without --resume a new one starts"
        )
    before = {"metric": search.metric} | record["search"]  # sweeps of earlier versions did not note it
    changed = [f"{key} ({before[key]} -> {value})" for key, value in asdict(search).items() if before[key] != value]
    if changed:
        raise UserError(f"--resume: {newest.name} was begun otherwise: {', '.join(changed)}")
    return newest, record


# ---------------------------------------------------------------- the search


def _run(
    search: Search, config: RunConfig, space: Mapping[str, Any], folder: Path, parent: track.TrackedRun, resume: bool, quiet: bool
) -> Any:  # fmt: skip
    """Tune's results. Raises KeyboardInterrupt when the search was interrupted; its state is saved then."""
    import optuna
    import ray
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that failed is told in our own words
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # tables that verbose=0 does not silence
    nested, pbt = config.scale.workers[1] > 1, search.scheduler == "pbt"
    total = ray.cluster_resources()
    gpus = int(total.get("GPU", 0)) if config.train.device != "cpu" else 0
    cpus = int(total.get("CPU", 1))
    workers = max(config.scale.workers[1], 1)
    concurrent = search.concurrent or max(1, (gpus or cpus // max(config.scale.cpus_per_worker, 1)) // workers)
    share = max(1, cpus // (concurrent * workers))
    # a trial that starts Ray Train leaves the CPUs to its workers, but Ray wants it to ask for something: a byte
    resources: dict[str, float] = {"memory": 1} if nested else {"cpu": share, **({"gpu": gpus / concurrent} if gpus else {})}
    shared = config.replace({"scale.cpus_per_worker": share, **({"data.workers": 0} if share == 1 and not gpus else {})})
    online = online_of(search.metric)
    plan = TrialPlan(shared.to_yaml(), str(folder), parent, nested, share, pbt, online)
    trainable = tune.with_resources(tune.with_parameters(run_trial, plan=plan), resources)
    if resume and tune.Tuner.can_restore(str(folder / "tune")):
        tuner = tune.Tuner.restore(str(folder / "tune"), trainable, resume_unfinished=True, resume_errored=True)
    else:
        drawn = pbt or any(isinstance(domain, dict) for domain in space.values())  # Optuna knows neither grids nor populations
        tuner = tune.Tuner(
            trainable,
            param_space=dict(space),
            tune_config=tune.TuneConfig(
                metric=online, mode="max", num_samples=search.samples, max_concurrent_trials=concurrent, reuse_actors=not nested,
                search_alg=BasicVariantGenerator(max_concurrent=concurrent, random_state=config.seed) if drawn else OptunaSearch(seed=config.seed),
                scheduler=_scheduler(search, space), time_budget_s=search.minutes * 60 or None, trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[] if quiet else [_watch(online)]),
        )  # fmt: skip
    with _interrupts() as asked:
        results = tuner.fit()
    if asked:
        raise KeyboardInterrupt
    return results


def online_of(metric: str) -> str:
    """What the scheduler goes by while trials train that are ranked on `metric` at their end."""
    return metric if metric == UNLABELLED else ONLINE


def shown(metric: str, value: float) -> str:
    """A value as people read it: a share in per cent, a rank as it is."""
    return f"{value:.1f}" if metric == UNLABELLED else f"{100 * value:.1f} %"


def _scheduler(search: Search, space: Mapping[str, Any]) -> Any:
    from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

    if search.scheduler == "asha":
        grace = max(1, round(100 * search.grace))
        return ASHAScheduler(time_attr="progress", max_t=100, grace_period=grace, reduction_factor=3)
    if search.scheduler == "pbt":
        mutations = {
            key: domain["grid_search"] if isinstance(domain, dict) else domain
            for key, domain in space.items()
            if key in LIVE_KEYS
        }
        return PopulationBasedTraining(time_attr="progress", perturbation_interval=25, hyperparam_mutations=mutations, synch=True)
    return None


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C or SIGTERM once has Tune save the search and end it, and puts the signal into the list; twice ends at once.

    Tune's own handler of Ctrl-C does not say that it was called and outlives the search; SIGUSR1 is its other way to be asked.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("\nsaving the sweep; the same command with --resume goes on with it. Ctrl-C again ends at once", flush=True)
        signal.raise_signal(signal.SIGUSR1)

    def before_tune_listens(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    handlers = {signal.SIGINT: handle, signal.SIGTERM: handle, signal.SIGUSR1: before_tune_listens}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(online: str) -> Any:
    """Prints a line per trial as it ends."""
    from ray import tune

    class Watch(tune.Callback):
        def setup(self, **info: Any) -> None:
            self.began, self.done = time.monotonic(), 0

        def _say(self, trial: Any, word: str) -> None:
            self.done += 1
            params = ", ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in trial.config.items()
            )
            value = (trial.last_result or {}).get(online)
            score = f"{'k-NN' if online == ONLINE else online} {shown(online, value):>7}" if value is not None else "no metric"
            print(f"[{time.monotonic() - self.began:5.0f} s] trial {self.done}: {score}  {word}  {params}", flush=True)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._say(trial, "finished" if (trial.last_result or {}).get("progress", 0) >= 100 else "stopped ")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._say(trial, "FAILED  ")

    return Watch()


# ---------------------------------------------------------------- after


def _trials(results: Any, folder: Path, parent: track.TrackedRun) -> list[Trial]:
    """The trials that began. MLflow gets the last online metrics of those that did not finish: their curves end at their last checkpoint."""
    trials = []
    for result in results:
        last = result.metrics or {}
        place = folder / Path(result.path).name  # not last["trial_id"]: of a trial that took over, that is the other's
        if not (place / RECORD).exists() and not result.error:
            continue  # the time budget came first
        run_id = json.loads((place / RECORD).read_text())["run_id"] if (place / RECORD).exists() else ""
        finished = (place / ENDED).exists()
        ended = json.loads((place / ENDED).read_text()) if finished else last
        metrics = {key: ended[key] for key in METRICS if key in ended}
        status = "finished" if finished else "failed" if result.error else "stopped"
        problem = "" if finished or not result.error else str(result.error).strip().splitlines()[-1][:200]
        trials.append(
            Trial(place.name, result.config or {}, status, metrics, run_id, str(place), int(ended.get("step", 0)), problem)
        )
        if run_id and metrics and not finished:
            with contextlib.suppress(track.TrackingError):
                track.attach(parent.uri, run_id).log_metrics(metrics, step=trials[-1].step)
    return trials


def _end_trials(parent: track.TrackedRun) -> None:
    """End the runs of trials whose process ended before it could do so."""
    mine = f"tags.`mlflow.parentRunId` = '{parent.run_id}' and attributes.status = 'RUNNING'"
    with track.asking(parent.uri, "ending trials") as talk:
        for run in talk.search_runs([parent.experiment_id], mine):
            talk.set_terminated(run.info.run_id, "KILLED")


def _ranked(trials: list[Trial], metric: str) -> list[Trial]:
    """Finished trials first: what a stopped one had reached is no verdict."""

    def rank(trial: Trial) -> tuple[bool, float, float]:
        return trial.status == "finished", trial.metrics.get(metric, -1.0), trial.metrics.get(online_of(metric), -1.0)

    return sorted(trials, key=rank, reverse=True)


def _crown(config: RunConfig, best: Trial, parent: track.TrackedRun, folder: Path) -> tuple[Trial, Path]:
    """Open the test set for the winner, once, where there are labels; write its config; let the sweep's run carry its metrics and params."""
    from .encoder import read_checkpoint
    from .evaluation.online import verdict

    encoder = read_checkpoint(best.folder)
    winner = config.replace(dict(best.params))
    source, device = data.open_source(winner.data), model.device_of(winner)
    measured = verdict(winner, source, encoder.method.to(device), device) if source.train.labels is not None else {}
    metrics = {**best.metrics, **measured}
    path = folder / "best.yaml"
    path.write_text(winner.to_yaml())
    child = track.attach(parent.uri, best.run_id)
    child.log_metrics({name: value for name, value in metrics.items() if name not in best.metrics}, step=best.step)
    child.set_tags({"contray.winner": "true"})
    parent.log_metrics(metrics, step=best.step)
    parent.log_params({f"best.{key}": value for key, value in best.params.items()})
    parent.log_artifact(path)
    return replace(best, metrics=metrics), path


def _plots(trials: list[Trial], space: Mapping[str, Any], metric: str, folder: Path, parent: track.TrackedRun) -> Path:
    """The metric against each searched key, one panel each; finished trials as dots, stopped ones as crosses at their last online metric."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    from .report import describe_domain

    keys = [key for key in space if key != "seed"]
    figure, axes = plt.subplots(
        1, len(keys), figsize=(max(3.6 * len(keys), 6.5), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    best, scale = trials[0].params if trials else {}, 1 if metric == UNLABELLED else 100
    for axis, key in zip(axes[0], keys, strict=True):
        for ended, marker, name in (("finished", "o", metric), ("stopped", "x", online_of(metric))):
            chosen = [trial for trial in trials if trial.status == ended and name in trial.metrics]
            if not chosen:
                continue
            axis.plot(
                [trial.params[key] for trial in chosen],
                [scale * trial.metrics[name] for trial in chosen],
                marker,
                label=f"{ended} ({name})",
                alpha=0.8,
            )
        if trials and trials[0].status == "finished":
            axis.plot(
                [best[key]], [scale * trials[0].metrics[metric]], "o", ms=13, mfc="none", mec="tab:red", mew=1.8, label="best"
            )
        values = [trial.params[key] for trial in trials if key in trial.params]
        if values and all(isinstance(value, int) and value > 0 and math.log2(value).is_integer() for value in values):
            axis.set_xscale("log", base=2)
        elif "(log)" in describe_domain(space[key]):
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(key)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("RankMe (effective rank)" if metric == UNLABELLED else "held-out top-1 [%]")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    path = folder / "parameters.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    parent.log_artifact(path)
    return path
