"""One run of a study, in a process of Ray Tune's: an ordinary run, which says how far it is and hears when it is to stop."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import track
from ..config import RunConfig
from ..config.registry import name_code
from ..errors import UserError
from ..storage.folder import Storage
from ..storage.logins import remember
from ..training.finite import NonFiniteLoss, NonFiniteState
from ..training.launch import launch
from ..training.records import read
from ..training.result import Result
from ..training.signature import TAG
from ..training.worker import Asked
from ..tuning.ranking import COSTS
from .runs import CONDITIONS, DIVERGED, MINUTES


@dataclass(frozen=True)
class Orders:
    """What the runs of a study need to know, in plain values that travel to Tune's processes."""

    configs: Mapping[str, str]  # by the run's name: YAML
    titles: Mapping[str, str]
    signatures: Mapping[str, str]
    parent: str
    board: Any
    jobs: int
    code: tuple[str, ...] = ()
    logins: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)


def make(params: Mapping[str, Any], orders: Orders) -> None:
    """Make one run, or go on with it. Reports `ended`: finished, stopped, diverged, or why it failed; and the minutes that this took."""
    from ray import tune

    name_code(*orders.code)
    remember(orders.logins)
    name = params["run"]
    config = RunConfig.from_yaml(orders.configs[name])
    watch, began = Watch(orders.board, name), time.monotonic()
    try:
        result = launch(config, quiet=True, parent=orders.parent, title=orders.titles[name], yes=True, watch=watch)
        ended = "finished" if result.finished else "stopped"
        if result.finished and not watch.resumed:
            tell(config, result, (time.monotonic() - began) / 60, orders)
    except UserError as error:
        ended = str(error)
        if isinstance(error, NonFiniteLoss) and not isinstance(error, NonFiniteState):  # whose loss was a number
            diverged(config, name, orders.signatures[name], ended)
            ended = "diverged"
    tune.report({"ended": ended, "minutes": (time.monotonic() - began) / 60, "whole": not watch.resumed})


def tell(config: RunConfig, result: Result, minutes: float, orders: Orders) -> None:
    """Keep with the run what it took, and under what conditions. An outage of MLflow loses that alone."""
    took = {name: float(result.details[name]) for name in COSTS if result.details.get(name)}
    run = track.TrackedRun(track.resolve_uri(config.track.uri), "", result.run_id)
    with contextlib.suppress(track.TrackingError):
        run.log_metrics(took, step=result.step)
        run.set_tags({MINUTES: f"{minutes:.4f}", CONDITIONS: conditions(orders.jobs)})


def diverged(config: RunConfig, name: str, signature: str, words: str) -> None:
    """Keep with a run that its loss is no number: it would end so again."""
    run_id = read(Storage(config.scale.storage) / name, quiet=True).get("run_id", "")
    track.TrackedRun(track.resolve_uri(config.track.uri), "", run_id).set_tags({TAG: signature, DIVERGED: words[:500]})


def conditions(jobs: int) -> str:
    """What time and memory of a run are comparable under: the machine, and how many run at once."""
    return f"{socket.gethostname()}, {jobs} at once"


class Watch:
    """Sends a run's progress to the study's board without waiting for it; the answer to an earlier message says whether it is to stop."""

    def __init__(self, board: Any, name: str) -> None:
        self.board, self.name, self.seen, self.resumed = board, name, dict[str, Any](), False
        self._ref, self._asked = None, Asked()

    def __call__(self, message: dict[str, Any]) -> bool:
        import ray
        from ray.exceptions import RayActorError

        self.resumed |= bool(message.get("resumed"))
        self.seen |= {key: message[key] for key in ("step", "total", "phase") if key in message}
        if self._ref is not None and ray.wait([self._ref], timeout=0)[0]:
            with contextlib.suppress(RayActorError):
                self._asked = Asked(*ray.get(self._ref))
            self._ref = None
        if self._ref is None:
            self._ref = self.board.put.remote({self.name: dict(self.seen)})
        return self._asked.stop
