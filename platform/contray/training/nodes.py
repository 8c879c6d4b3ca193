"""What the cluster's nodes can give, and whether they see the run's folder: what cannot work is refused before anything starts."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import RunConfig
from ..errors import ConfigError
from ..storage.folder import Storage
from .lease import LEASE

FIRST_WORD, NEXT_WORD, LOOK = 15.0, 30.0, 3.0  # seconds without a worker until it is said, until it is said again, between looks
SEE_SECONDS = 60.0  # that a node may take to say what it sees: it starts a process for it


@dataclass(frozen=True)
class Node:
    """A node that is alive: what it has in all, and what nobody uses of it."""

    id: str
    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]


def nodes() -> list[Node]:
    """The nodes of the cluster that is joined."""
    import ray

    free: Mapping[str, Mapping[str, float]] = {}
    with contextlib.suppress(Exception):  # private to Ray: without it, what is free is not told
        free = ray._private.state.available_resources_per_node()  # pyright: ignore[reportAttributeAccessIssue]
    return [
        Node(
            each["NodeID"],
            f"{each['NodeManagerHostname']} ({each['NodeManagerAddress']})",
            each["Resources"],
            free.get(each["NodeID"], {}),
        )
        for each in ray.nodes()
        if each["Alive"]
    ]


# ---------------------------------------------------------------- how much a worker asks for


def demand(config: RunConfig, there: Sequence[Node], more: Sequence[Mapping[str, float]] | None = None) -> dict[str, float]:
    """The resources of one worker; with scale.cpus_per_worker 0, as many CPUs as let all workers be placed that the nodes have room for.

    more: what kinds of nodes an autoscaler can add; None where that is to be found out. Raises ConfigError, with the numbers, for what
    can never be met, however long the run waits.
    """
    scale, (least, most) = config.scale, config.scale.workers
    gpu = uses_gpu(config, there)
    gpus = {"GPU": float(scale.gpus_per_worker or 1)} if gpu else {}
    totals = [node.total for node in there]
    grows, kinds = (bool(more), more or []) if more is not None else _autoscaler()

    asked = {"CPU": float(scale.cpus_per_worker or _cpus(totals, gpus, most)), **gpus}
    if grows and not kinds:  # what it could add is not known
        return asked
    if not room_for([*totals, *kinds], asked):
        key = "scale.gpus_per_worker" if gpu and not room_for([*totals, *kinds], gpus) else "scale.cpus_per_worker"
        raise ConfigError(key, f"a worker asks for {words(asked)}, and no node can ever give that: {_listed(totals, kinds)}")
    if not kinds and (room := room_for(totals, asked)) < least:
        raise ConfigError(
            "scale.workers",
            f"at least {least} workers of {words(asked)} are asked for, and the cluster has room for {room}: {_listed(totals, kinds)}; "
            "give a smaller MIN, or fewer scale.cpus_per_worker",
        )
    return asked


def _cpus(totals: Sequence[Mapping[str, float]], gpus: Mapping[str, float], count: int) -> int:
    """The most CPUs with which so many workers, or as many as there is room for, can be placed."""
    able = min(count, max(1, room_for(totals, {"CPU": 1.0, **gpus})))
    largest = math.floor(max((total.get("CPU", 0) for total in totals), default=1))
    return next((cpus for cpus in range(largest, 1, -1) if room_for(totals, {"CPU": cpus, **gpus}) >= able), 1)


def side_by_side(config: RunConfig, there: Sequence[Node], count: int = 0, **more: Any) -> tuple[int, dict[str, float]]:
    """How many runs go on at once on these nodes, and what one worker of a run takes: whatever it is, a node must have it, so that no total tells.

    count: of runs; 0: one for each GPU, without GPUs for each CPU (each scale.cpus_per_worker). Where there are more than GPUs, they share them.
    more: as `demand`'s, which refuses what no node can ever give.
    """
    workers, totals = max(config.scale.workers[1], 1), [node.total for node in there]
    gpus = {"GPU": 1.0} if uses_gpu(config, there) else {}
    count = count or max(1, room_for(totals, {"CPU": float(max(config.scale.cpus_per_worker, 1)), **gpus}) // workers)
    asked = demand(config.replace({"scale.workers": (1, count * workers)}), there, **more)
    found = sum(int(total.get("GPU", 0)) for total in totals)
    if gpus and found and count * workers > found:
        gpus = {"GPU": 1 / math.ceil(count * workers / found)}
        asked = {"CPU": float(config.scale.cpus_per_worker or _cpus(totals, gpus, count * workers)), **gpus}
    return count, asked


def uses_gpu(config: RunConfig, there: Sequence[Node]) -> bool:
    """Whether workers get a GPU each."""
    wants = config.train.device == "cuda" or config.scale.gpus_per_worker > 0  # also where the autoscaler has started no GPU yet
    return config.train.device != "cpu" and (wants or any(node.total.get("GPU") for node in there))


def words(resources: Mapping[str, float]) -> str:
    """{CPU: 4, GPU: 1}"""
    return (
        "{" + ", ".join(f"{key}: {resources.get(key, 0):g}" for key in ("CPU", "GPU") if key in resources or key == "CPU") + "}"
    )


def kinds(there: Sequence[Node]) -> str:
    """What nodes there are: 2 x {CPU: 8, GPU: 1} A10G, 1 x {CPU: 2}"""
    counted = Counter(
        " ".join([words(node.total), *sorted(key.partition(":")[2] for key in node.total if key.startswith("accelerator_type:"))])
        for node in there
    )
    return ", ".join(f"{count} x {kind}" for kind, count in counted.most_common())


def room_for(totals: Iterable[Mapping[str, float]], asked: Mapping[str, float]) -> int:
    """How many workers the nodes can hold, everything on them free."""
    return sum(min((int(total.get(key, 0) // amount) for key, amount in asked.items() if amount), default=0) for total in totals)


def _listed(totals: Sequence[Mapping[str, float]], kinds: Sequence[Mapping[str, float]]) -> str:
    listed = f"its nodes have {', '.join(map(words, totals)) or 'nothing'}"
    return listed + (f", those that it can add {', '.join(map(words, kinds))}" if kinds else "")


def _autoscaler() -> tuple[bool, list[dict[str, float]]]:
    """Whether nodes may be added, and of which kinds where that is known. Private to Ray: where it does not tell, they may."""
    from ray.experimental.internal_kv import _internal_kv_get

    try:
        import ray

        config = ray._private.state.state.get_cluster_config()  # pyright: ignore[reportAttributeAccessIssue]
        kinds = [dict(group.resources) for group in config.node_group_configs] if config else []
        if kinds:
            return True, kinds
        status = _internal_kv_get(b"__autoscaling_status")
        report = json.loads(status)["autoscaler_report"] if status else {}
        known = [*(report.get("active_nodes") or {}), *(report.get("idle_nodes") or {})]
        # a monitor that only looks calls every node a kind of its own, node_ID
        return any(not name.startswith("node_") for name in known), []
    except Exception:
        return True, []


# ---------------------------------------------------------------- waiting


class Waiting:
    """Says, while no worker of this job is alive, what the run waits for."""

    def __init__(self, least: int, asked: Mapping[str, float]) -> None:
        self.least, self.asked, self.words = least, asked, ""
        self._alive_at = self._looked = time.monotonic()
        self._said = -1e9

    def look(self) -> str:
        """Words, new ones every NEXT_WORD seconds, after FIRST_WORD seconds without a worker; empty while there is one."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return self.words
        self._looked = now
        if self.working():
            self._alive_at, self.words, self._said = now, "", -1e9
        elif now - self._alive_at > FIRST_WORD and now - self._said > NEXT_WORD:
            self._said = now
            found = nodes()
            have = ", ".join(f"{words(node.total)} (free {words(node.free)})" for node in found) or "no node"
            if room_for((node.free for node in found), self.asked) >= self.least:  # a slow machine, a new environment
                have += ", which is enough: Ray is starting them"
            self.words = (
                f"waiting for {self.least} worker{'s' * (self.least > 1)} of {words(self.asked)} for {round(now - self._alive_at)} s; "
                f"the cluster has {have}"
            )
        return self.words

    def working(self) -> bool:
        """Whether a worker of this job's Ray Train is alive. Private to Ray: where it does not tell, there is one."""
        import ray

        try:
            job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
            actors = ray._private.state.actors(job_id=job, actor_state_name="ALIVE")  # pyright: ignore[reportAttributeAccessIssue]
            return any("RayTrainWorker" in actor["ActorClassName"] for actor in actors.values())
        except Exception:
            return True


# ---------------------------------------------------------------- the folder


def check_seen(folder: Storage, ask: Callable[[Sequence[Node]], Mapping[str, str]] | None = None) -> None:
    """Refuse a folder of which a node does not see the lease that this driver holds there. An address is everybody's."""
    token = folder.token
    if not folder.local or not token:
        return
    import ray

    there = nodes()
    here = ray.get_runtime_context().get_node_id()
    if [node.id for node in there] == [here]:
        return
    seen = (ask or _asked(folder, token))(there)
    blind = [node for node in there if node.id in seen and seen[node.id] != token]
    if blind:
        sees = [node.name for node in there if seen.get(node.id) == token]
        raise ConfigError(
            "scale.storage",
            f"{folder.address} is seen by {', '.join(sees) or 'this driver'} only, not by {', '.join(node.name for node in blind)}; "
            "give a path that all nodes share, or an address such as s3://bucket/runs",
        )


def _asked(folder: Storage, token: str) -> Callable[[Sequence[Node]], Mapping[str, str]]:
    def ask(there: Sequence[Node]) -> dict[str, str]:
        """The token in the lease, as each node reads it; nothing of nodes that do not answer."""
        path = f"{folder.root}/{LEASE}"

        def look() -> str:  # nested: it travels by value, and no node imports this project for it
            import json
            import time

            for _ in range(5):
                try:
                    with open(path) as file:
                        return str(json.load(file).get("token", ""))
                except (OSError, ValueError):  # a share's listing may be some seconds old
                    time.sleep(1)
            return ""

        return ask_each(there, look)

    return ask


def ask_each(there: Sequence[Node], look: Callable[..., Any], *given: Any) -> dict[str, Any]:
    """What `look(*given)` gives on each of the nodes, by the node's id; nothing of one that has not answered within SEE_SECONDS or cannot."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(*given): node.id
        for node in there
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=SEE_SECONDS) if asked else ([], [])
    for each in late:
        ray.cancel(each)
    answers: dict[str, Any] = {}
    for each in done:
        with contextlib.suppress(Exception):  # its node has gone meanwhile
            answers[asked[each]] = ray.get(each)
    return answers
