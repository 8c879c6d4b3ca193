"""Curves to MLflow from the training loop: nothing lost, nothing doubled, never waited for.

MLflow cannot take a point back. So a point is sent only once a checkpoint on disk covers its step (what is computed again after
a fault was never sent), every checkpoint carries the points that MLflow has not acknowledged, and before the first send, and
after any failed one, the metric's history is read back and only steps that are missing there are sent.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from ..errors import UserError
from .datasets import Dataset
from .run import TrackedRun, with_gains
from .store import TrackingError, client

POINTS_PER_BATCH = 1000  # MLflow's limit
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between attempts while MLflow does not answer

Point = tuple[str, float, int, int]  # name, value, timestamp in ms, step
log = logging.getLogger(__name__)


class MetricLog:
    """The points of one run on their way to MLflow; one value per metric and step. One process writes to a run at a time.

    `pending`: what `pending()` gave for the checkpoint that training goes on from. At most `max_points` are held: during a longer
    outage further points are refused, counted in `dropped`, and one warning says so.
    `trouble`: told ("mlflow", what hinders) when MLflow takes nothing, ("mlflow", "") when it does again, ("points", what is lost); a log
    record without it. Called from any thread. `fence`: asked before each send; a UserError of it says that another process writes to the
    run now, and ends the sending.

    The thread starts with the first `durable` or `close`, not before: data workers are forked by then, and none inherits a
    half-done import of MLflow.
    """

    def __init__(
        self,
        run: TrackedRun,
        *,
        max_points: int = 100_000,
        pending: Iterable[Point] = (),
        trouble: Callable[[str, str], None] | None = None,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        self.dropped = self.sent = 0  # points refused for want of room; points that MLflow took from here
        self._run, self._trouble, self._fence = run, trouble or _warn, fence
        self._tags: dict[str, str] = {}
        self._inputs: list[Dataset] = []
        self._max_points = max_points
        self._points = {(name, step): (value, timestamp) for name, value, timestamp, step in pending}
        self._durable = max((step for _, step in self._points), default=-1)  # they come from a checkpoint
        self._stored: dict[str, set[int]] = {}  # metric -> steps that MLflow held when last read back
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._stopped = self._away = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take values in; infinite ones are kept as NaN, since MLflow would turn them into 1.8e308."""
        now = int(time.time() * 1000)
        with self._wake:
            for name, value in with_gains(values).items():
                key = (_allowed(name), int(step))
                if len(self._points) >= self._max_points and key not in self._points:
                    self._drop(step)
                else:
                    self._points[key] = (float(value) if math.isfinite(value) else math.nan, now)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run as soon as MLflow takes them, without waiting; the last value of each counts."""
        with self._wake:
            self._tags |= tags
            self._start()

    def inputs(self, datasets: Iterable[Dataset], tags: Mapping[str, str] = {}) -> None:
        """Name the run's data with the first points, and tags with them; MLflow keeps each once. A server that refuses them is told once, and has
        the points.
        """
        with self._wake:
            self._inputs.extend(datasets)
            self._tags |= tags
            self._wake.notify_all()

    def durable(self, step: int) -> None:
        """A checkpoint that covers everything up to and including `step` is on disk: these points may go."""
        with self._wake:
            self._durable = max(self._durable, step)
            self._start()

    def pending(self) -> list[Point]:
        """Every point that MLflow has not acknowledged, for the checkpoint."""
        with self._wake:
            return [(name, value, timestamp, step) for (name, step), (value, timestamp) in self._points.items()]

    def close(self, timeout_s: float) -> int:
        """Send what is durable, for at most `timeout_s` seconds; the number of points not sent."""
        with self._wake:
            self._closing = True
            self._start()
        assert self._thread is not None
        self._thread.join(timeout_s)
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
            return len(self._points)

    # ------------------------------------------------------------ the thread

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="metric-log", daemon=True)
            self._thread.start()
        self._wake.notify_all()

    def _send_all(self) -> None:
        pause = FIRST_PAUSE
        while work := self._next():
            if self._once(*work):
                pause = FIRST_PAUSE
                continue
            with self._wake:
                self._wake.wait(FIRST_PAUSE if self._closing else pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _once(self, batch: Mapping[tuple[str, int], tuple[float, int]], tags: Mapping[str, str], inputs: list[Dataset]) -> bool:
        """Try to send; whether MLflow has it now."""
        try:
            self._fence()
        except UserError:  # the run is another's, who has these points from the checkpoint; the training thread says so
            with self._wake:
                self._stopped = True
            return False
        except OSError:  # whose it is cannot be told for the moment
            return False
        try:
            self._send(batch, tags, inputs)
        except Exception as error:  # whatever it is, training goes on, the points stay, and it is said
            if not self._away:
                self._trouble(
                    "mlflow",
                    f"MLflow does not answer since {time.strftime('%H:%M:%S')} ({_first_line(error)}); "
                    "training goes on, points are kept and sent later",
                )
            self._away = True
            self._stored.clear()  # the failed batch may have arrived
            return False
        if self._away:
            self._trouble("mlflow", "")
        self._away = False
        with self._wake:
            for key in batch:
                del self._points[key]
            for key, value in tags.items():
                if self._tags[key] == value:
                    del self._tags[key]
            del self._inputs[: len(inputs)]
        return True

    def _next(self) -> tuple[dict[tuple[str, int], tuple[float, int]], dict[str, str], list[Dataset]] | None:
        """Wait for points, tags and data that may be sent; None when the log is closed and all of them are sent, or its time is up."""
        with self._wake:
            while not self._stopped:
                due = (key for key in self._points if key[1] <= self._durable)
                batch = {key: self._points[key] for key in islice(due, POINTS_PER_BATCH)}
                if batch or self._tags or self._inputs:
                    return batch, dict(self._tags), list(self._inputs)
                if self._closing:
                    break
                self._wake.wait()
        return None

    def _send(self, batch: Mapping[tuple[str, int], tuple[float, int]], tags: Mapping[str, str], inputs: list[Dataset]) -> None:
        talk = client(self._run.uri)
        from mlflow.entities import Metric, RunTag

        if tags:
            talk.log_batch(self._run.run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)
        for name in {name for name, _ in batch} - self._stored.keys():
            self._stored[name] = {point.step for point in talk.get_metric_history(self._run.run_id, name)}
        missing = [(key, point) for key, point in batch.items() if key[1] not in self._stored[key[0]]]
        if missing:
            metrics = [Metric(name, value, timestamp, step) for (name, step), (value, timestamp) in missing]
            talk.log_batch(self._run.run_id, metrics=metrics, synchronous=True)
            self.sent += len(metrics)
        if inputs:
            self._name(inputs)

    def _name(self, inputs: list[Dataset]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._run.log_inputs(inputs)
        except TrackingError as error:
            if not isinstance(why := error.__cause__, MlflowException) or not 400 <= why.get_http_status_code() < 429:
                raise
            log.warning(f"the run's data are not named in MLflow: {error}")

    def _drop(self, step: int) -> None:
        if not self.dropped:
            self._trouble(
                "points",
                f"LOST METRICS: MLflow has not taken the last {self._max_points} points; none are kept from step {step} on",
            )
        self.dropped += 1


def _warn(what: str, words: str) -> None:
    if words:
        log.warning(words)


def _allowed(name: str) -> str:
    """The name with only characters that MLflow allows: one wrong name would have its whole batch refused for ever."""
    return re.sub(r"[^\w.\-/ ]", "_", name)[:250]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
