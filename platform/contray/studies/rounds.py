"""Ray Tune over the runs that a study lacks: as many at once as there are CPUs or GPUs, none begun that time does not suffice for."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import model
from ..config import RunConfig
from ..config.registry import code_of
from ..errors import UserError
from ..processors import processors
from ..storage.folder import Storage
from ..storage.logins import remembered
from ..training.describing import title_of
from ..training.lease import Lease
from ..training.nodes import Node, nodes, side_by_side
from ..training.progress import TrainingBar
from ..training.ray_train import new_board, own_records
from ..training.reasons import one_line
from ..training.stop import interrupts
from ..training.worker import Asked
from .runs import Pace, Wanted
from .trial import Orders, make

LOOK_SECONDS = 0.5  # between two looks at the board
STOP_SECONDS = (
    8.0  # that runs have for their checkpoint once they are to stop; one that measures, which cannot stop, is ended then
)


def at_once_of(config: RunConfig, jobs: int) -> int:
    """How many runs go on at once: `jobs`, or as `make_all` has it, on this machine where no cluster is joined."""
    import ray

    if jobs:
        return jobs
    gpus = {"GPU": float(torch.cuda.device_count())} if model.device_of(config).type == "cuda" else {}
    here = Node("", "this machine", {"CPU": float(processors()), **gpus}, {})
    return side_by_side(config, nodes() if ray.is_initialized() else [here])[0]


@dataclass
class Made:
    """What came of the runs that were begun: failed, by signature, says why; interrupted: Ctrl-C ended it."""

    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def make_all(
    title: str, name: str, todo: Sequence[Wanted], parent: str, storage: Storage, pace: Pace, lease: Lease, *,
    jobs: int, ends: float, quiet: bool,
) -> Made:  # fmt: skip
    """Make these runs, in their order. title: of the bar; name: of Tune's own records. ends: on time.monotonic's clock: what does not end before is
    not begun, what runs then is stopped with its checkpoint.
    """
    import ray
    from ray import tune
    from ray.exceptions import RayError

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a run that failed is told in our own words
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # tables that verbose=0 does not silence
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    at_once, asked_for = side_by_side(todo[0].config, nodes(), jobs)
    share = int(asked_for["CPU"])
    lone = {
        "scale.workers": (0, 0),
        "scale.cpus_per_worker": share,
        **({"data.workers": 0} if share == 1 and "GPU" not in asked_for else {}),
    }
    board, made, asked = new_board(), Made(), [False]
    named = {each.name: each for each in todo}
    orders = Orders(
        {name: each.config.replace({**lone, "track.name": name, "scale.storage": storage.address}).to_yaml() for name, each in named.items()},
        {name: title_of(each.config, name) for name, each in named.items()},
        {name: each.signature for name, each in named.items()},
        parent, board, jobs, tuple({code: None for each in todo for code in code_of(each.config)}), remembered(),
    )  # fmt: skip
    state = Rounds(list(named), named, pace, ends, asked, made)
    with TrainingBar(title, quiet) as bar:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(make, orders=orders), {key.lower(): each for key, each in asked_for.items()}),
            tune_config=tune.TuneConfig(
                metric="minutes", mode="min", num_samples=len(todo), max_concurrent_trials=at_once, reuse_actors=True,
                search_alg=_searcher(state),
                time_budget_s=None if math.isinf(ends) else max(1.0, ends - time.monotonic()) + STOP_SECONDS, trial_name_creator=_name_of, trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(name=name, **own_records(storage), verbose=0, callbacks=[_watch(state, board, bar, lease)]),
        )  # fmt: skip
        try:
            with interrupts(asked):
                tuner.fit()
        finally:
            if storage.local:
                shutil.rmtree(Path(storage.root) / ".ray" / name, ignore_errors=True)  # Tune's own records, which are not read
            with contextlib.suppress(RayError):  # the cluster has gone
                ray.kill(board)
    lease.check()
    made.interrupted = asked[0]
    if state.left and not asked[0] and not quiet:
        takes = pace.of(named[state.left[0]].arm)
        print(
            f"{len(state.left)} runs were not begun: one takes about {takes:.1f} min, which the budget did not leave", flush=True
        )
    return made


@dataclass
class Rounds:
    """Which runs are left, which run, and whether another may begin."""

    left: list[str]
    named: dict[str, Wanted]
    pace: Pace
    ends: float
    asked: list[bool]
    made: Made
    done: int = 0

    def next(self) -> str | None:
        """The name of the run that begins now: the first that time suffices for; None: none does."""
        if self.asked[0]:
            return None
        minutes = (self.ends - time.monotonic()) / 60
        for name in self.left:
            takes = self.pace.of(self.named[name].arm)
            if minutes > 0 and not takes > minutes:  # of unknown length: begun
                self.left.remove(name)
                return name
        return None

    def ended(self, name: str, report: dict[str, Any], error: str = "") -> str:
        """Take in how a run ended; what must be said of it."""
        self.done += 1
        word, each = str(report.get("ended", "")) or error or ("stopped" if self.over else "its process died"), self.named[name]
        if word in ("finished", "diverged"):
            if word == "finished" and report.get("whole"):
                self.pace.took(each.arm, float(report["minutes"]))
            return f"{name} diverged" if word == "diverged" else ""
        if word == "stopped":
            return ""
        self.made.failed[each.signature] = word
        return f"{name} failed: {word}"

    @property
    def over(self) -> bool:
        """Whether what still runs is to stop."""
        return self.asked[0] or time.monotonic() > self.ends


def _name_of(trial: Any) -> str:
    return str(trial.config["run"])


def _searcher(state: Rounds) -> Any:
    from ray.tune.search import Searcher

    class Next(Searcher):
        """Suggests the runs that are left, as long as time suffices."""

        def suggest(self, trial_id: str) -> Any:
            name = state.next()
            return Searcher.FINISHED if name is None else {"run": name}

        def __reduce__(self) -> Any:  # Tune pickles what it is given, and nobody reads that
            return dict, ()

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            pass

    return Next(metric="minutes", mode="min")


def _watch(state: Rounds, board: Any, bar: TrainingBar, lease: Lease) -> Any:
    """Draws the bar, and tells the runs when they are to stop."""
    import ray
    from ray import tune
    from ray.exceptions import RayActorError

    class Watch(tune.Callback):
        looked = -math.inf

        def __reduce__(self) -> Any:
            return tune.Callback, ()

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if time.monotonic() < self.looked + LOOK_SECONDS:
                return
            self.looked = time.monotonic()
            try:
                lease.check()
            except UserError:  # raised once all have ended
                state.asked[0] = True
            seen: dict[str, Any] = {}
            with contextlib.suppress(RayActorError):
                seen = ray.get(board.read.remote(Asked(stop=state.over)))
            running = [str(trial.config["run"]) for trial in trials if trial.status == "RUNNING"]
            at = [f"{name} {_far(seen.get(name, {}))}" for name in running]
            bar.show({"step": state.done, "total": len(state.named), "unit": "run", "phase": ", ".join(at)})

        def _end(self, trial: Any, error: str = "") -> None:
            words = state.ended(str(trial.config["run"]), dict(trial.last_result or {}), error)
            if words:
                bar.show({"said": [words]})

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._end(trial)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._end(trial, _why(trial))

    return Watch()


def _why(trial: Any) -> str:
    """Why a trial failed; empty where Ray keeps nothing of it, as of a process that was lost."""
    error = trial.get_error()
    return one_line(error) if error else ""


def _far(seen: dict[str, Any]) -> str:
    return str(seen.get("phase") or (f"{100 * seen.get('step', 0) // max(seen.get('total', 1), 1)} %"))
