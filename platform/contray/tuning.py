"""Search: Ray Tune over the config's dotted keys, trials as children of one MLflow run, the test set opened once, for the winner."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from . import data, model, track
from .config import RunConfig
from .errors import ConfigError, UserError
from .registry import load_space
from .training.checkpoint import Storage
from .training.launch import check_machines, fit, ray_session, tags_of
from .training.worker import Plan, work

ONLINE = "knn_val_top1"
METRICS = (ONLINE, "linear_val_top1")


@dataclass(frozen=True)
class Trial:
    """One trial as it ended: `status` is finished, stopped (by the scheduler or the time budget) or failed."""

    name: str
    params: Mapping[str, Any]
    status: str
    metrics: Mapping[str, float]
    run_id: str
    folder: str
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
    """Search the space `name`; see `contray tune --help` for the options. Ranked on held-out training data (`metric`)."""
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
    if source.train.labels is None:
        raise UserError(
            f"data.source: {source.name} has no labels, and trials are ranked on held-out labels; pretrain with contray train"
        )
    if scheduler == "pbt" and config.scale.workers[1] > 1:
        raise UserError("--scheduler pbt: works for trials of one worker only; use asha, or scale.workers 1 1")
    check_machines(config)
    space, left_out = _fitting(config, dict(file.SPACE), len(source.train))
    uri = track.resolve_uri(config.track.uri)
    track.check(uri)
    storage = Storage(config.scale.storage)
    storage.create()
    for word in left_out if not quiet else ():
        print(word)

    from .report import describe_domain

    base_name = config.track.name or f"tune-{Path(name).stem}-{config.digest('scale', 'track')}"
    folder, record = _folder(storage, base_name, resume)
    grid = any(isinstance(domain, dict) for domain in space.values())
    params = {
        **{key: value for key, value in config.flat().items() if key not in space},
        **{key: describe_domain(domain) for key, domain in space.items()},
    }
    tags = {**tags_of(config, source), "contray.kind": "sweep", "contray.space": Path(name).stem, "contray.metric": metric}
    parent = track.begin(uri, config.track.experiment, Path(folder).name, params=params, tags=tags, run_id=record.get("run_id"))
    Storage(folder).create()
    Storage(folder).write("sweep.json", json.dumps({"run_id": parent.run_id, "finished": False}).encode())
    if not quiet:
        print(f"sweep {Path(folder).name}: {parent.url}", flush=True)

    status = "FAILED"
    try:
        with ray_session(config, dashboard=config.scale.workers[1] > 1):
            results = _search(
                file, config, space, Path(folder), parent,
                samples=samples or getattr(file, "SAMPLES", 1), scheduler=scheduler, grace=grace, concurrent=concurrent, minutes=minutes, resume=resume,
                quiet=quiet, grid=grid,
            )  # fmt: skip
            trials = _ranked(_trials(results, space, Path(folder), parent), metric)
            best = next((trial for trial in trials if metric in trial.metrics), None)
            best_config = _crown(config, best, parent, Path(folder)) if best else None
        plots = _plots(trials, space, metric, Path(folder), parent)
        Storage(folder).write("sweep.json", json.dumps({"run_id": parent.run_id, "finished": True}).encode())
        status = "FINISHED"
    finally:
        with contextlib.suppress(track.TrackingError):
            parent.finish(status)
    url = track.compare_url(uri, parent.experiment_id, [trial.run_id for trial in trials if trial.run_id])
    result = SweepResult(Path(folder).name, metric, trials, best, best_config, plots, parent.run_id, url, space)
    if not quiet:
        from .report import show_sweep

        show_sweep(result, parent.url)
    return result


# ---------------------------------------------------------------- before


def _base(file: ModuleType, overrides: Mapping[str, Any], preset: str, config_file: Path | None) -> RunConfig:
    settings = {**getattr(file, "BASE", {}), **overrides}
    if config_file is None:
        return RunConfig.make(file.METHOD, settings, preset=preset)
    if not config_file.is_file():
        raise UserError(f"--config: there is no file {config_file}")
    return RunConfig.from_yaml(config_file.read_text(), settings, where=str(config_file), method=file.METHOD, preset=preset)


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


def _folder(storage: Storage, base: str, resume: bool) -> tuple[str, Mapping[str, Any]]:
    """A new folder for the sweep, or with `resume` the newest of its name."""
    if not storage.local:
        raise UserError(
            "scale.storage: a sweep keeps its state on a local or shared path; trials cannot start from an object store"
        )
    root, number, newest = Path(storage.root), 1, None
    while (root / (base if number == 1 else f"{base}-{number}") / "sweep.json").exists():
        newest = root / (base if number == 1 else f"{base}-{number}")
        number += 1
    if resume:
        if newest is None:
            raise UserError(f"--resume: there is no sweep {base} under {storage.address}")
        return str(newest), json.loads((newest / "sweep.json").read_text())
    return str(root / (base if number == 1 else f"{base}-{number}")), {}


# ---------------------------------------------------------------- trials


class TuneReport:
    """The adapter between a trial and Tune: the same for a trial that trains in its own process and for one that starts Ray Train.

    It takes the messages that a progress bar would take, and reports each online evaluation. Progress 100 comes with the last report alone,
    after the probe: ASHA ends a trial that reaches it.
    """

    def __init__(self) -> None:
        self.reported = -1

    def show(self, message: Mapping[str, Any]) -> None:
        """Report to Tune when `message` brings a new evaluation."""
        from ray import tune

        if ONLINE in message and message.get("evaluated", -1) > self.reported:
            self.reported = int(message["evaluated"])
            values = {
                ONLINE: message[ONLINE],
                "step": self.reported,
                "progress": min(99, round(100 * self.reported / message["total"])),
            }
            with _checkpoint(message) as checkpoint:
                tune.report(values, checkpoint=checkpoint)


@contextlib.contextmanager
def _checkpoint(message: Mapping[str, Any]):
    """The state that PBT copies from one trial to another, where the message offers it."""
    import tempfile

    if "save" not in message:
        yield None
        return
    import torch
    from ray import tune

    with tempfile.TemporaryDirectory() as folder:
        torch.save(message["save"](), Path(folder) / "state.pt")
        yield tune.Checkpoint.from_directory(folder)


def run_trial(
    params: Mapping[str, Any], *, base: str, folder: str, parent: track.TrackedRun, nested: bool, cpus: int, pbt: bool
) -> dict[str, float] | None:
    """One trial, in a process of Tune's. Its last report carries the metrics that trials are ranked on."""
    from ray import tune

    config = RunConfig.from_yaml(base, dict(params))
    context = tune.get_context()
    name = f"{Path(folder).name}-{context.get_trial_id()}"
    place = Storage(f"{folder}/{context.get_trial_id()}")
    place.create()
    record = json.loads(place.read("run.json")) if "run.json" in place.names() else {}
    tags = {
        "contray.kind": "trial",
        "contray.method": Path(config.method.name).stem,
        "contray.preset": config.method.preset,
        "contray.dataset": Path(config.data.source).name,
        "contray.group": config.digest("scale", "track", "seed"),
    }
    logged = {
        key: value for key, value in config.flat().items() if not (pbt and key in params)
    }  # PBT changes these: MLflow's params cannot
    run = track.begin(
        parent.uri, config.track.experiment, name, params=logged, tags=tags, run_id=record.get("run_id"), parent_id=parent.run_id
    )
    place.write("run.json", json.dumps({"run_id": run.run_id, "params": dict(params)}).encode())
    report = TuneReport()
    status = "FAILED"
    try:
        if nested:
            ended = fit(config, name, place, run, report, final="validation")
        else:
            ended = work(
                Plan(config.to_yaml(), place.address, run, cpus, "validation"),
                _shower(report),
                start=_exploited() if pbt else None,
                offer=pbt,
            )
        place.write("config.yaml", config.to_yaml().encode())
        place.write("ended.json", json.dumps(ended["metrics"]).encode())
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        with contextlib.suppress(track.TrackingError):
            run.finish(status)
    tune.report({**ended["metrics"], "step": ended["step"], "progress": 100})
    return None


def _shower(report: TuneReport):
    def show(message: dict[str, Any]) -> bool:
        report.show(message)
        return False

    return show


def _exploited() -> dict[str, Any] | None:
    """The state of the trial that PBT told this one to go on from."""
    import torch
    from ray import tune

    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / "state.pt", weights_only=True)


# ---------------------------------------------------------------- the search


def _search(
    file: ModuleType, config: RunConfig, space: Mapping[str, Any], folder: Path, parent: track.TrackedRun, *, samples: int, scheduler: str, grace: float,
    concurrent: int, minutes: float, resume: bool, quiet: bool, grid: bool,
) -> Any:  # fmt: skip
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
    from ray.tune.search.optuna import OptunaSearch

    nested = config.scale.workers[1] > 1
    total = ray.cluster_resources()
    gpus = int(total.get("GPU", 0)) if config.train.device != "cpu" else 0
    cpus = int(total.get("CPU", 1))
    workers = max(config.scale.workers[1], 1)
    concurrent = concurrent or max(1, (gpus or cpus // max(config.scale.cpus_per_worker, 1)) // workers)
    share = max(1, cpus // (concurrent * workers))
    resources = {"cpu": 0.01} if nested else {"cpu": share, **({"gpu": gpus / concurrent} if gpus else {})}
    trial_config = config.replace({"scale.cpus_per_worker": share, **({"data.workers": 0} if share == 1 and not gpus else {})})
    pbt = scheduler == "pbt"
    trainable = tune.with_resources(
        tune.with_parameters(
            run_trial_of,
            settings=dict(base=trial_config.to_yaml(), folder=str(folder), parent=parent, nested=nested, cpus=share, pbt=pbt),
        ),
        resources,
    )
    schedulers = {
        "none": lambda: None,
        "asha": lambda: ASHAScheduler(
            time_attr="progress", max_t=100, grace_period=max(1, round(100 * grace)), reduction_factor=3
        ),
        "pbt": lambda: PopulationBasedTraining(
            time_attr="progress",
            perturbation_interval=25,
            hyperparam_mutations={key: domain for key, domain in space.items() if _mutable(key)},
            synch=True,
        ),
    }
    if pbt and not any(_mutable(key) for key in space):
        raise UserError("--scheduler pbt: this space has no key that may change while a trial runs")
    restorable = folder / "tune"
    if resume and tune.Tuner.can_restore(str(restorable)):
        tuner = tune.Tuner.restore(str(restorable), trainable, resume_unfinished=True, resume_errored=True)
    else:
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        tuner = tune.Tuner(
            trainable,
            param_space=dict(space),
            tune_config=tune.TuneConfig(
                metric=ONLINE, mode="max", num_samples=samples if not grid else max(1, samples), max_concurrent_trials=concurrent, reuse_actors=not nested and not pbt,
                search_alg=None if grid or pbt else OptunaSearch(seed=config.seed), scheduler=schedulers[scheduler](),
                time_budget_s=minutes * 60 or None, trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[] if quiet else [_watch(samples)]),
        )  # fmt: skip
    return tuner.fit()


def run_trial_of(params: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """What Tune calls: `run_trial` with the sweep's settings."""
    run_trial(params, **settings)


def _mutable(key: str) -> bool:
    """Whether PBT may change a key of a running trial: nothing that sizes a tensor or counts samples."""
    return key in ("method.temperature", "method.momentum", "augment.strength") or key.startswith("optim.")


def _watch(samples: int) -> Any:
    """Prints a line per trial as it ends."""
    from ray import tune

    class Watch(tune.Callback):
        def __init__(self) -> None:
            self.began, self.done = time.monotonic(), 0

        def _say(self, trial: Any, word: str) -> None:
            self.done += 1
            params = ", ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in trial.config.items()
            )
            metric = (trial.last_result or {}).get(ONLINE)
            score = f"k-NN {100 * metric:5.1f} %" if metric is not None else "no metric"
            print(f"[{time.monotonic() - self.began:5.0f} s] trial {self.done}: {score}  {word}  {params}", flush=True)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._say(trial, "finished" if (trial.last_result or {}).get("progress", 0) >= 100 else "stopped ")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._say(trial, "FAILED  ")

    return Watch()


# ---------------------------------------------------------------- after


def _trials(results: Any, space: Mapping[str, Any], folder: Path, parent: track.TrackedRun) -> list[Trial]:
    trials = []
    for result in results:
        values = result.metrics or {}
        trial_id = values.get("trial_id") or Path(result.path).name
        place = folder / trial_id
        record = json.loads((place / "run.json").read_text()) if (place / "run.json").exists() else {}
        metrics = {key: values[key] for key in METRICS if key in values}
        if (place / "ended.json").exists():
            metrics |= {key: value for key, value in json.loads((place / "ended.json").read_text()).items() if key in METRICS}
        ended = "failed" if result.error else "finished" if "linear_val_top1" in metrics else "stopped"
        problem = str(result.error).strip().splitlines()[-1][:200] if result.error else ""
        trials.append(
            Trial(
                trial_id, result.config or record.get("params", {}), ended, metrics, record.get("run_id", ""), str(place), problem
            )
        )
        if ended == "stopped" and record:
            with contextlib.suppress(track.TrackingError):
                child = track.attach(parent.uri, record["run_id"])
                child.set_tags({"contray.stopped": "by the scheduler or the time budget"})
                child.finish("KILLED")
    return trials


def _ranked(trials: list[Trial], metric: str) -> list[Trial]:
    return sorted(trials, key=lambda trial: (trial.metrics.get(metric, -1.0), trial.metrics.get(ONLINE, -1.0)), reverse=True)


def _crown(config: RunConfig, best: Trial, parent: track.TrackedRun, folder: Path) -> Path:
    """Open the test set for the winner, once; write its config; let the sweep's run carry its metrics and params."""
    from .encoder import read_checkpoint
    from .evaluation.online import verdict

    encoder = read_checkpoint(best.folder)
    winner = config.replace(dict(best.params))
    source, device = data.open_source(winner.data), model.device_of(winner)
    metrics = verdict(winner, source, encoder.method.to(device), device)
    path = folder / "best.yaml"
    path.write_text(winner.to_yaml())
    step = max(1, winner.train.steps)
    child = track.attach(parent.uri, best.run_id)
    child.log_metrics(metrics, step=step)
    child.set_tags({"contray.winner": "true"})
    parent.log_metrics(metrics, step=step)
    parent.log_params({f"best.{key}": value for key, value in best.params.items()})
    parent.log_artifact(path)
    object.__setattr__(best, "metrics", {**best.metrics, **metrics})
    return path


def _plots(trials: list[Trial], space: Mapping[str, Any], metric: str, folder: Path, parent: track.TrackedRun) -> Path:
    """The metric against each searched key, one panel each; finished trials as dots, stopped ones as crosses at their last k-NN."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from .report import describe_domain

    keys = [key for key in space if key != "seed"]
    figure, axes = plt.subplots(
        1, len(keys), figsize=(max(3.6 * len(keys), 6.5), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    best = trials[0].params if trials else {}
    for axis, key in zip(axes[0], keys, strict=True):
        for ended, marker, shown in (("finished", "o", metric), ("stopped", "x", ONLINE)):
            chosen = [trial for trial in trials if trial.status == ended and shown in trial.metrics]
            if not chosen:
                continue
            axis.plot(
                [trial.params[key] for trial in chosen],
                [100 * trial.metrics[shown] for trial in chosen],
                marker,
                label=f"{ended} ({shown})",
                alpha=0.8,
            )
        if trials and metric in trials[0].metrics:
            axis.plot(
                [best[key]], [100 * trials[0].metrics[metric]], "o", ms=13, mfc="none", mec="tab:red", mew=1.8, label="best"
            )
        values = [trial.params[key] for trial in trials if key in trial.params]
        if values and all(isinstance(value, int) and value > 0 and math.log2(value).is_integer() for value in values):
            axis.set_xscale("log", base=2)
        elif "(log)" in describe_domain(space[key]):
            axis.set_xscale("log")
        axis.set_xlabel(key)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("held-out top-1 [%]")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    path = folder / "parameters.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    parent.log_artifact(path)
    return path
