"""What makes Ray Train's elasticity quick and gentle: its settings, a watch over the nodes, and patience with failures.

Ray Train counts the nodes, resizes the worker group and starts it again after a fault. It gives workers no notice before it resizes, looks at the
cluster every 20 s only, and counts failures over the whole life of a run. So the driver looks itself: while nodes come, go or drain,
checkpoints hurry, and Ray is asked to look at once.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ray.train import UserCallback
from ray.train.v2._internal.execution.callback import ControllerCallback

from ..errors import UserError
from ..storage import sealed
from ..storage.checkpoint import newest_step
from ..storage.folder import Storage
from ..storage.logins import remember, remembered
from .reasons import one_line

# How soon the control store takes a silent node for dead (4 to 6 s; stock: 15 to 30 s). `ray_cluster.yaml` starts its head with the same.
NODE_HEALTH = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
ENVIRONMENT = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "6",  # stock 60 s, which a group that was planned for a dead node would wait for
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}
RESIZE_SECONDS = 3.0  # how often Ray Train may think of another world size; stock 60 s
LOOK_SECONDS = 1.0
HURRY_SECONDS = 15.0  # how long checkpoints hurry after the nodes changed: until the group has its new size
NOTICE_SECONDS = 2.0  # between a node's coming and Ray's being told of it: time for a checkpoint
FAILURES = "failures.json"
KINDS: sealed.Kinds = {"step": int, "count": int, "errors": dict}
# what no new worker would do better, by the exception's name: Ray hands on its traceback
ENDS = (
    "LeaseLost",
    "NotSeen",
    "Unsaved",
)


class NodeWatch:
    """Looks at the cluster's nodes from the driver."""

    def __init__(self) -> None:
        self._alive: frozenset[str] = frozenset()
        self._changed = self._looked = -1e9
        self._hurry = self._grew = False

    def look(self) -> bool:
        """Whether checkpoints should hurry: nodes are draining, or some came or went a moment ago. Asks the cluster once a second."""
        import ray

        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return self._hurry
        self._looked = now
        alive = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
        if self._alive and alive != self._alive:
            self._changed, self._grew = now, bool(alive - self._alive)
        self._alive = alive
        since = now - self._changed
        if since < HURRY_SECONDS and (since > NOTICE_SECONDS or not self._grew):
            _look_again()
        self._hurry = since < HURRY_SECONDS or bool(_draining() & alive)
        return self._hurry


def _look_again() -> None:
    """Have Ray Train's view of the cluster refreshed now. Private to Ray: where it is missing, its own 20 s hold."""
    import ray

    with contextlib.suppress(Exception):
        coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
        coordinator.get_reserved_resources.remote("contray", recompute=True)


def _draining() -> frozenset[str]:
    """Nodes that will be taken away. Private to Ray: where it is missing, a node's end comes without notice."""
    import ray

    with contextlib.suppress(Exception):
        return frozenset(ray._private.state.state.get_draining_nodes())  # pyright: ignore[reportAttributeAccessIssue]
    return frozenset()


class NoProgress(UserError):
    """The run failed too often in a row without a new checkpoint."""


class Patience(UserCallback):
    """Ends a run after more than `limit` failures in a row without a new checkpoint (-1: never). Lives in Ray Train's controller.

    What happened stands in `failures.json` beside the checkpoints, so a controller or a driver that starts anew goes on counting.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit, self.logins = folder, limit, remembered()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if any(getattr(error, "preempted", False) for error in worker_exceptions.values()):
            return  # a node that was taken away is nobody's failure
        for error in worker_exceptions.values():
            if any(name in f"{error!r} {error}" for name in ENDS):
                raise NoProgress(one_line(error))
        remember(self.logins)
        storage = Storage(self.folder)
        step = newest_step(storage)
        try:
            known = sealed.read(storage, FAILURES, KINDS, needed=("count",)) or {}
        except sealed.Damaged:
            known = {}  # counted anew: no failure but the disk's
        count = known["count"] + 1 if step == known.get("step") else 1
        told = {str(rank): one_line(error) for rank, error in sorted(worker_exceptions.items())}
        sealed.write(storage, FAILURES, {"step": step, "count": count, "errors": told})
        if 0 <= self.limit < count:
            first = next(iter(told.items()))
            raise NoProgress(
                f"training failed {count} times in a row after step {step} without a new checkpoint (scale.max_failures {self.limit}); "
                f"the last time worker {first[0]}: {first[1]}"
            )


class Introduced(ControllerCallback):
    """Tells a board which actor is Ray Train's controller, so that the driver can end it, and its own wait for it, before it leaves the cluster."""

    def __init__(self, board: Any) -> None:
        self.board = board

    def after_controller_start(self, train_run_context: Any) -> None:
        import ray

        self.board.introduce.remote(ray.get_runtime_context().current_actor)


def forget_failures(folder: Storage) -> None:
    """A run that someone starts again by hand has all its attempts again."""
    if FAILURES in folder.names():
        folder.remove(FAILURES)
