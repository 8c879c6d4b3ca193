"""The search itself: Ray Tune over the space, its scheduler, interrupts, and a line for each trial that ends."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import track
from ..config import RunConfig
from ..config.registry import code_of
from ..storage.folder import Storage
from ..storage.logins import remembered
from ..training.describing import trial_name
from ..training.lease import POLL, Lease, LeaseLost, NotSeen
from ..training.nodes import nodes, side_by_side
from ..training.stop import note_stop
from . import kept
from .domains import listed
from .ranking import COSTS, shown
from .trial import ONLINE, TrialPlan, run_trial
from .warm import Warm

WORD = 60.0  # seconds
SCHEDULERS = ("asha", "median", "pbt", "none")
LIVE_KEYS = {  # what PBT may change on the way: read at every step, and no state depends on it
    *("method.temperature", "method.momentum", "augment.strength"),
    *("optim.lr", "optim.lr_end", "optim.gamma", "optim.clip"),
}


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
    against: str = ""  # what trials cost, where that is searched for beside the metric
    warm: str = ""  # MLflow's run of the sweep that this one goes on from


def run(
    search: Search, config: RunConfig, space: Mapping[str, Any], folder: Storage, parent: track.TrackedRun, lease: Lease, online: str,
    warm: Warm, quiet: bool, tags: Mapping[str, str],
) -> Any:  # fmt: skip
    """Tune's results; online: the metric that its scheduler goes by; warm: what is known before; tags: of all trials.

    Raises KeyboardInterrupt when the search was interrupted, LeaseLost when another driver has taken it over.

    Trials that an earlier life of the sweep began come first, in their own folders: one that has ended reports again what it had come to,
    so that scheduler and sampler know it, and one that has not goes on from its checkpoint.
    """
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that failed is told in our own words
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # tables that verbose=0 does not silence
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # what a trial costs is reported at its end alone
    nested, pbt = config.scale.workers[1] > 1, search.scheduler == "pbt"
    concurrent, asked = side_by_side(config, nodes(), search.concurrent)
    share, gpus = int(asked["CPU"]), "GPU" in asked
    # a trial that starts Ray Train leaves the CPUs to its workers, but Ray wants it to ask for something: a byte
    resources: dict[str, float] = {"memory": 1} if nested else {key.lower(): amount for key, amount in asked.items()}
    shared = config.replace({"scale.cpus_per_worker": share, **({"data.workers": 0} if share == 1 and not gpus else {})})
    plan = TrialPlan(
        shared.to_yaml(), folder.address, parent, nested, share, pbt, online, lease.token, lease.folder.address,
        code_of(config), remembered(), tags,
    )  # fmt: skip
    trainable = tune.with_resources(tune.with_parameters(run_trial, plan=plan), resources)
    kept.mend(folder)
    known = kept.begun(folder, config, space)
    if pbt or any(isinstance(domain, dict) for domain in space.values()):  # Optuna knows neither grids nor populations
        now = {each.name: each for each in known}  # a population has changed its parameters on the way
        known = [now.get(each.name, each) for each in kept.drawn(space, search.samples, config.seed)]
        number = len(known)
        algorithm = BasicVariantGenerator([dict(each.params) for each in known], concurrent, random_state=config.seed)
    else:
        number = search.samples
        algorithm = _optuna(search, online, warm, [dict(each.params) for each in known], config.seed)
    (folder / "tune").clear()  # Ray's own state of an earlier life, which is not read
    place = kept.places(known)
    tuner = tune.Tuner(
        trainable,
        param_space=dict(space),
        tune_config=tune.TuneConfig(
            metric=None if search.against else online, mode=None if search.against else "max", num_samples=number,
            max_concurrent_trials=concurrent, reuse_actors=not nested, search_alg=algorithm,
            scheduler=_scheduler(search, space), time_budget_s=search.minutes * 60 or None, trial_name_creator=place, trial_dirname_creator=place,
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=folder.root, storage_filesystem=None if folder.local else folder.system, verbose=0,
            callbacks=[] if quiet else [_watch(online)],
        ),
    )  # fmt: skip
    with _interrupts() as asked, _guarded(lease):
        results = tuner.fit()
    lease.check()
    if asked:
        raise KeyboardInterrupt
    return results


def _optuna(search: Search, online: str, warm: Warm, known: list[dict[str, Any]], seed: int) -> Any:
    """TPE (Bergstra et al. 2011; of two objectives Ozaki et al. 2020, https://doi.org/10.1145/3377930.3389817), which knows what `warm` tells,
    begins with the trials on record, then with those that `warm` would try, and goes on with another seed than before, else it would draw again
    what it has drawn.
    """
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metrics, modes = [online], ["max"]
    if search.against:
        metrics, modes = [search.metric, search.against], ["max", COSTS[search.against][0]]
    ways = {"max": optuna.study.StudyDirection.MAXIMIZE, "min": optuna.study.StudyDirection.MINIMIZE}
    store = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=store, study_name="sweep", directions=[ways[mode] for mode in modes]).add_trials(warm.told)
    points = [*known, *(dict(params) for params in warm.tried if params not in known)]
    return OptunaSearch(
        metric=metrics if search.against else None, mode=modes if search.against else None, storage=store, study_name="sweep",
        points_to_evaluate=points or None, seed=seed + len(known),
    )  # fmt: skip


@contextlib.contextmanager
def _guarded(lease: Lease) -> Iterator[None]:
    """Have Tune end the search once the lease is lost. Trials notice by themselves; this keeps new ones from starting."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(POLL):
            try:
                lease.check()
            except (LeaseLost, NotSeen):
                os.kill(os.getpid(), signal.SIGUSR1)
                return

    # elsewhere Tune hears no signals; its trials fail one after the other
    thread = threading.Thread(target=watch, name="sweep-lease", daemon=True)
    if threading.current_thread() is threading.main_thread():
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()


def _scheduler(search: Search, space: Mapping[str, Any]) -> Any:
    from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, PopulationBasedTraining

    grace = max(1, round(100 * search.grace))
    if search.scheduler == "asha":
        return ASHAScheduler(time_attr="progress", max_t=100, grace_period=grace, reduction_factor=3)
    if search.scheduler == "median":
        # it would pause trials until there are three to judge by, and ours have nothing to go on from
        return MedianStoppingRule(time_attr="progress", grace_period=grace, min_time_slice=math.inf)  # pyright: ignore[reportArgumentType]
    if search.scheduler == "pbt":
        live = {key: domain for key, domain in space.items() if key in LIVE_KEYS}
        return PopulationBasedTraining(
            time_attr="progress", perturbation_interval=25, synch=True, custom_explore_fn=partial(_within, _ranges(live)),
            hyperparam_mutations={key: listed(domain) or domain for key, domain in live.items()},
        )  # fmt: skip
    return None


def _ranges(space: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    return {key: (domain.lower, domain.upper) for key, domain in space.items() if listed(domain) is None}


def _within(ranges: Mapping[str, tuple[float, float]], params: dict[str, Any]) -> dict[str, Any]:
    """What PBT makes of a trial's parameters, times 0.8 or 1.2, in the ranges that they were drawn from."""
    return params | {key: min(max(params[key], low), high) for key, (low, high) in ranges.items() if key in params}


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
        note_stop()
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
    """Prints a line per trial as it ends, and one every WORD seconds without."""
    from ray import tune

    class Watch(tune.Callback):
        def setup(self, **info: Any) -> None:
            self.began = self.said = time.monotonic()
            self.done = 0

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if time.monotonic() - self.said < WORD:
                return
            running = [trial for trial in trials if trial.status == "RUNNING"]
            at = ", ".join(f"{trial} {(trial.last_result or {}).get('progress', 0)} %" for trial in running)
            words = f"running: {at} of its steps at its last report" if running else "none is running yet"
            self._print(f"{self.done} trials have ended; {words}")

        def _print(self, words: str) -> None:
            self.said = time.monotonic()
            print(f"[{self.said - self.began:5.0f} s] {words}", flush=True)

        def _say(self, trial: Any, word: str) -> None:
            self.done += 1
            params = ", ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in trial.config.items()
            )
            value = (trial.last_result or {}).get(online)
            score = f"{'k-NN' if online == ONLINE else online} {shown(online, value):>7}" if value is not None else "no metric"
            self._print(f"{trial_name(str(trial))}: {score}  {word}  {params}")

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._say(trial, "finished" if (trial.last_result or {}).get("progress", 0) >= 100 else "stopped ")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._say(trial, "FAILED  ")

    return Watch()
