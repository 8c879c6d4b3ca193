"""What a worker asks of the cluster's nodes, what is refused, what is said while a run waits, and folders that not all nodes see."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contray import RunConfig
from contray.errors import ConfigError
from contray.storage.folder import Storage
from contray.training import nodes
from contray.training.nodes import Node, Waiting, check_seen, demand


def cluster(*totals: dict[str, float] | float) -> list[Node]:
    filled = [total if isinstance(total, dict) else {"CPU": total} for total in totals]
    return [Node(str(i), f"node{i}", total, total) for i, total in enumerate(filled)]


def config(least: int, most: int, **scale: Any) -> RunConfig:
    keys = {"scale.workers": (least, most), **{f"scale.{key}": value for key, value in scale.items()}}
    return RunConfig.make("simclr", keys, preset="digits")


@pytest.mark.parametrize(
    ("totals", "workers", "cpus"),
    [
        ((1, 2, 2), (1, 1), 2),  # not the cluster's five
        ((1, 2, 2), (1, 2), 2),
        ((1, 2, 2), (1, 3), 1),
        ((0, 4), (1, 1), 4),  # a head that takes no work
        ((8, 8), (4, 4), 4),
        ((8,), (1, 3), 2),
        ((2,), (1, 8), 1),
        (({"CPU": 16}, {"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}), (1, 8), 4),  # as many workers as there are GPUs
        ((2.5,), (1, 1), 2),
    ],
)
def test_a_worker_asks_for_what_one_node_can_give(totals: Any, workers: tuple[int, int], cpus: int) -> None:
    assert demand(config(*workers), cluster(*totals), more=[])["CPU"] == cpus


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    totals=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    workers=st.tuples(st.integers(1, 6), st.integers(1, 6)).map(sorted),
    asked=st.integers(0, 9),
)
def test_what_is_asked_for_can_be_met_and_what_cannot_is_refused(totals: list[int], workers: list[int], asked: int) -> None:
    least, most = workers
    wanted = config(least, most, cpus_per_worker=asked)
    if sum(total // max(asked, 1) for total in totals) < least:
        with pytest.raises(ConfigError):
            demand(wanted, cluster(*totals), more=[])
        return
    cpus = int(demand(wanted, cluster(*totals), more=[])["CPU"])
    assert cpus == asked or not asked
    assert sum(total // cpus for total in totals) >= (least if asked else min(most, sum(totals)))


@pytest.mark.parametrize(
    ("totals", "keys", "words"),
    [
        ((1, 2), {"cpus_per_worker": 4}, r"^scale\.cpus_per_worker: .* \{CPU: 4\}, and no node can ever give that: its nodes have \{CPU: 1\}, \{CPU: 2\}$"),
        ((4, 4), {"cpus_per_worker": 3}, r"^scale\.workers: at least 3 workers of \{CPU: 3\} .*, and the cluster has room for 2: .*fewer scale.cpus_per_worker$"),
        ((8,), {"gpus_per_worker": 1}, r"^scale\.gpus_per_worker: a worker asks for \{CPU: \d, GPU: 1\}, and no node can ever give that"),
    ],
)  # fmt: skip
def test_what_can_never_be_met_is_refused_with_the_numbers(totals: Any, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        demand(config(3, 3, **keys), cluster(*totals), more=[])


def test_what_the_autoscaler_can_add_is_waited_for() -> None:
    gpus = config(1, 2, gpus_per_worker=1)
    assert demand(gpus, cluster(2), more=[{"CPU": 8, "GPU": 1}]) == {"CPU": 1, "GPU": 1}
    with pytest.raises(ConfigError, match=r"no node can ever give that: .*, those that it can add \{CPU: 8\}$"):
        demand(gpus, cluster(2), more=[{"CPU": 8}])


def test_a_cluster_that_may_grow_by_unknown_nodes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_autoscaler", lambda: (True, []))
    assert demand(config(1, 1, gpus_per_worker=1), cluster(2)) == {"CPU": 1, "GPU": 1}
    monkeypatch.setattr(nodes, "_autoscaler", lambda: (False, []))
    with pytest.raises(ConfigError, match="no node can ever give that"):
        demand(config(1, 1, gpus_per_worker=1), cluster(2))


GPU_NODE, POD = {"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("totals", "keys", "asked", "count", "takes"),
    [
        ([2], {}, 0, 2, {"CPU": 1}),
        ([2], {}, 1, 1, {"CPU": 2}),
        ([2], {}, 4, 4, {"CPU": 1}),
        ([2], {"cpus_per_worker": 2}, 0, 1, {"CPU": 2}),
        ([8] * 4, {}, 2, 2, {"CPU": 8}),  # not 16 of the cluster's 32, which no node has
        ([GPU_NODE] * 8, {}, 0, 8, GPU_NODE),
        ([GPU_NODE] * 8, {}, 2, 2, GPU_NODE),  # not four GPUs
        ([GPU_NODE] * 8, {}, 3, 3, GPU_NODE),
        ([32, GPU_NODE, GPU_NODE], {}, 0, 2, GPU_NODE),  # not the CPUs of a head that has no GPU
        ([POD], {}, 0, 4, {"CPU": 4, "GPU": 1}),
        ([POD], {}, 8, 8, {"CPU": 2, "GPU": 0.5}),
        ([GPU_NODE] * 2, {}, 3, 3, {"CPU": 4, "GPU": 0.5}),  # two thirds of a GPU would leave room for two
        ([2], {"gpus_per_worker": 1}, 0, 1, {"CPU": 1, "GPU": 1}),  # nodes with GPUs are still to come
    ],
)
def test_a_run_among_several_takes_what_one_node_can_give(totals: Any, keys: Any, asked: int, count: int, takes: Any) -> None:
    there = cluster(*totals)
    assert nodes.side_by_side(config(0, 0, **keys), there, asked, more=[GPU_NODE] if keys.get("gpus_per_worker") else []) == (
        count,
        takes,
    )


def test_runs_of_several_workers_share_the_nodes() -> None:
    assert nodes.side_by_side(config(2, 2), cluster(8, 8), more=[]) == (8, {"CPU": 1})
    assert nodes.side_by_side(config(2, 2), cluster(8, 8), 1, more=[]) == (1, {"CPU": 8})
    assert nodes.side_by_side(config(1, 2), cluster(*[GPU_NODE] * 4), more=[]) == (2, GPU_NODE)
    with pytest.raises(ConfigError, match="no node can ever give that"):
        nodes.side_by_side(config(0, 0, cpus_per_worker=9), cluster(8, 8), more=[])


def test_kinds_of_nodes_are_counted() -> None:
    gpu = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:A10G": 1.0, "memory": 1e9}
    assert nodes.kinds(cluster(gpu, 2, gpu)) == "2 x {CPU: 8, GPU: 1} A10G, 1 x {CPU: 2}"


# ---------------------------------------------------------------- waiting


def test_while_no_worker_is_alive_it_is_said_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now, alive = [0.0], [False]
    monkeypatch.setattr(nodes, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(nodes, "nodes", lambda: [Node("a", "a", {"CPU": 4.0}, {"CPU": 1.0}), Node("b", "b", {"CPU": 0.0}, {})])
    waiting = Waiting(2, {"CPU": 2.0})
    monkeypatch.setattr(waiting, "working", lambda: alive[0])
    said = []
    for _ in range(90):
        now[0] += 1
        words = waiting.look()
        if words and (not said or said[-1] != words):
            said.append(words)
    assert len(said) == 3, "after 15 s, and every 30 s from then on"
    assert said[0] == (
        "waiting for 2 workers of {CPU: 2} for 18 s; the cluster has {CPU: 4} (free {CPU: 1}), {CPU: 0} (free {CPU: 0})"
    )
    monkeypatch.setattr(nodes, "nodes", lambda: [Node("a", "a", {"CPU": 4.0}, {"CPU": 4.0})])
    now[0] += 31
    assert waiting.look().endswith("the cluster has {CPU: 4} (free {CPU: 4}), which is enough: Ray is starting them")
    alive[0] = True
    now[0] += 5
    assert waiting.look() == ""
    alive[0] = False  # its node died
    now[0] += 5
    assert waiting.look() == "", "a new one may be on its way"


# ---------------------------------------------------------------- the folder


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(nodes, "nodes", lambda: cluster(2, 2, 2))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "0"))


def test_a_folder_that_a_node_does_not_see_is_refused_and_the_node_named(two_nodes: None, tmp_path: Any) -> None:
    folder = Storage(str(tmp_path))
    folder.token = "mine"
    check_seen(folder, lambda there: {node.id: "mine" for node in there})
    check_seen(folder, lambda there: {"0": "mine"})  # a node that does not answer may be gone
    with pytest.raises(
        ConfigError, match=rf"^scale\.storage: {tmp_path} is seen by node0, node2 only, not by node1; give a path that all"
    ):
        check_seen(folder, lambda there: {"0": "mine", "1": "", "2": "mine"})
    with pytest.raises(ConfigError, match="not by node1, node2"):
        check_seen(folder, lambda there: {"0": "mine", "1": "of another run, in a folder of the node's own", "2": ""})


def test_an_address_and_a_machine_of_its_own_are_not_asked(
    monkeypatch: pytest.MonkeyPatch, two_nodes: None, tmp_path: Any
) -> None:
    def asked(there: Any) -> dict[str, str]:
        raise AssertionError("asked")

    address = Storage(f"file://{tmp_path}")
    address.token = "mine"
    check_seen(address, asked)
    monkeypatch.setattr(nodes, "nodes", lambda: cluster(2))
    own = Storage(str(tmp_path))
    own.token = "mine"
    check_seen(own, asked)
