"""Who is told of a run besides MLflow: somebody's W&B, TensorBoard or spreadsheet, without a fork.

A listener is a module that defines one subclass of `Listener`. `track.listeners` names it: an entry point of the group `contray.listeners`, or a .py file.
It listens on rank 0 and never changes or stops the run: what it raises is said once, and the run goes on. Each has a thread of its own, from which it
hears all events in their order, so a slow one holds nobody up; what it has not heard `CLOSE_SECONDS` after the end is lost, which is said.
"""

from __future__ import annotations

import contextlib
import inspect
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..config.registry import find, told
from ..errors import ConfigError

CLOSE_SECONDS = 20.0
WAITING = 10_000  # events that a listener may lag behind
Trouble = Callable[[str, str], None]  # (of what, in words)


@dataclass(frozen=True)
class Run:
    """What a listener is told of the run."""

    name: str
    config: RunConfig  # .flat() gives every dotted key with its value
    samples: int  # training images
    total: int  # steps
    folder: str  # of the run, a path or an address: checkpoints lie there
    run_id: str  # MLflow's; empty: it is not tracked
    url: str  # of the run's page in MLflow


class Listener:
    """Override what you want to hear. A run that dies and goes on begins anew: `begin`, then `restore`, and the steps after that once more."""

    def begin(self, run: Run) -> None:
        """Before the first step of this process."""

    def restore(self, step: int) -> None:
        """The run goes on from its checkpoint of `step` (0: from the start): what was told of later steps is told again, and holds no more."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics after `step` optimiser steps: loss, lr, grad_norm, images_per_second, and of evaluations k-NN and geometry."""

    def evaluated(self, step: int, fraction: float, values: Mapping[str, float]) -> None:
        """An online evaluation after `step` steps, `fraction` of the run."""

    def collapsed(self, step: int, words: str) -> None:
        """The collapse alarm, once in a run."""

    def durable(self, step: int) -> None:
        """A checkpoint of `step` is safe: `restore` will name no earlier one, unless it is damaged."""

    def trouble(self, what: str, words: str) -> None:
        """Something goes wrong ("checkpoint", "damage", "storage", "mlflow"), or, with no words, is mended."""

    def end(self, status: str, step: int, metrics: Mapping[str, float]) -> None:
        """The last event: "finished" with the verdict, "stopped" with a checkpoint, or "failed" (Ray may yet begin anew). A killed process tells nothing."""


def load(names: Sequence[str]) -> list[type[Listener]]:
    """The classes that `track.listeners` names. Raises UserError, ConfigError for what is none."""
    return [_class(name) for name in names]


def _class(name: str) -> type[Listener]:
    module = find("listener", name)
    own = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Listener)]
    own = [each for each in own if each.__module__ == module.__name__]
    if len(own) != 1:
        raise ConfigError(
            "track.listeners", f"{name} must define exactly one subclass of contray.track.Listener, it defines {len(own)}"
        )
    if any(
        each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        for each in inspect.signature(own[0]).parameters.values()
    ):
        raise ConfigError("track.listeners", f"{name}: {own[0].__name__}() must take no argument; `begin` is told of the run")
    return own[0]


class Audience:
    """All listeners of a run. `tell` never waits and never raises."""

    def __init__(self, names: Iterable[str], trouble: Trouble) -> None:
        self._threads = [_Thread(name, each, trouble) for name in names for each in load([name])]

    def tell(self, event: str, *values: Any) -> None:
        """Have every listener hear an event of `Listener`."""
        for each in self._threads:
            each.put(event, values)

    def close(self, *last: Any, timeout_s: float = CLOSE_SECONDS) -> None:
        """Tell the end (`Listener.end`), and wait until all is heard."""
        self.tell("end", *last)
        deadline = time.monotonic() + timeout_s
        for each in self._threads:
            each.close(deadline)


class _Thread:
    """One listener, and the thread that it hears from."""

    def __init__(self, name: str, kind: type[Listener], trouble: Trouble) -> None:
        self.name, self._kind, self._trouble = f"listener {Path(name).stem}", kind, trouble
        self._path = inspect.getfile(kind)
        self._said = False
        self._events: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._listen, name=self.name, daemon=True)
        self._thread.start()

    def put(self, event: str, values: tuple[Any, ...]) -> None:
        try:
            self._events.put_nowait((event, values))
        except queue.Full:
            self._say(f"is {WAITING:,} events behind and misses what comes now")

    def close(self, deadline: float) -> None:
        with contextlib.suppress(queue.Full):
            self._events.put(None, timeout=max(0.0, deadline - time.monotonic()))
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._said = False
            self._say(
                f"has not heard the last {self._events.qsize() + 1:,} events {CLOSE_SECONDS:g} s after the end, and is left behind"
            )

    def _listen(self) -> None:
        listener: Listener | None = None
        while (item := self._events.get()) is not None:
            event, values = item
            try:
                listener = listener or self._kind()
                getattr(listener, event)(*values)
            except BaseException as error:  # SystemExit too: it must not end a thread that others rely on
                self._say(f"failed in {event} ({told(error, self._path)}); the run goes on")

    def _say(self, words: str) -> None:
        """Once in a run: a listener that fails at every step would drown what matters."""
        if not self._said:
            self._said = True
            self._trouble(self.name, f"{self.name} {words}")
