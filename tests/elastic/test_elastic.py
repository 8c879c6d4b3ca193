"""The promise itself: a run that loses and gains workers and nodes computes what an undisturbed one computes.

One method meets one fault in every test run, and reads its images from an S3 server, while the undisturbed run has them on its disk. The whole
matrix, three methods and six faults, and the forms in which images lie on a server, about twenty minutes:

    CONTRAY_ELASTIC=all pytest tests/elastic/test_elastic.py -s
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.elastic.harness import METHODS, OWN, SMALL, Driver, Nodes, apart, slow_method
from tests.object_store import pictures, serving

WHOLE = os.environ.get("CONTRAY_ELASTIC") == "all"
STEPS, STEP_SECONDS, FAULT_AT = 300 if WHOLE else 120, 0.12, 40
DRAIN_SECONDS = 6.0


def worker_killed(run: Driver, nodes: Nodes) -> int:
    run.kill_worker(1)
    return 2


def node_killed(run: Driver, nodes: Nodes) -> int:
    nodes.kill(nodes.all[-1])
    return 1


def node_joined(run: Driver, nodes: Nodes) -> int:
    nodes.add()
    return 2


def node_drained(run: Driver, nodes: Nodes) -> int:
    nodes.drain(nodes.all[-1], DRAIN_SECONDS)
    time.sleep(DRAIN_SECONDS)
    nodes.kill(nodes.all[-1])
    return 1


def terminated(run: Driver, nodes: Nodes) -> int:
    assert run.process is not None
    run.process.terminate()
    assert run.end(60) == 130, run.told()
    run.start()
    return 2


def one_two_one(run: Driver, nodes: Nodes) -> int:
    node_joined(run, nodes)
    lives = run.until("two workers", lambda lives: lives[-1].world == 2 and lives[-1].ids, 90)
    run.until_step(lives[-1].begin + 20)
    return node_killed(run, nodes)


FAULTS: dict[str, tuple[int, Callable[[Driver, Nodes], int]]] = {  # name -> nodes at the start, and what befalls them
    "worker killed": (2, worker_killed),
    "node killed": (2, node_killed),
    "node joined": (1, node_joined),
    "node drained": (2, node_drained),
    "SIGTERM and again": (2, terminated),
    "one, two, one": (1, one_two_one),
}
FORMS = ("folder", "parquet", "tar")  # of images on a server; "": the built-in digits
CASES = (
    [(method, fault, "") for method in METHODS for fault in FAULTS] + [("moco", "worker killed", form) for form in FORMS]
    if WHOLE
    else [("moco", "worker killed", "folder")]
)


def keys_of(method: str, source: str) -> dict[str, Any]:
    """source: a path or an address; empty: the digits."""
    keys = {**SMALL, **OWN[method], "train.steps": STEPS}
    if source:  # decoded at each access: every step reads from where the images lie
        keys = {key: value for key, value in keys.items() if key not in ("data.size", "data.renderings")}
        keys |= {"data.source": source, "data.memory_gb": 0.0, "data.workers": 1}
        if source.endswith("tar"):
            keys |= {"data.shuffle": "blocks", "data.window": 2}
    return keys


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Driver]]:
    """A method's run in one process, without Ray, on the digits or on a set of pictures on this disk in the form given."""
    known: dict[tuple[str, str], Driver] = {}

    def run(method: str, form: str) -> Driver:
        if (method, form) not in known:
            folder = tmp_path_factory.mktemp(f"undisturbed_{method}{form}")
            source = str(pictures(folder / "pictures" / form, form)) if form else ""
            driver = Driver(folder, method, {**keys_of(method, source), "scale.workers": (0, 0)}, "undisturbed")
            with driver.running():
                assert driver.end(240) == 0, driver.told()
            known[method, form] = driver
        return known[method, form]

    yield run
    for driver in known.values():
        shutil.rmtree(driver.folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("method", "fault", "form"), CASES)
def test_a_disturbed_run_is_the_undisturbed_one(
    method: str, fault: str, form: str, undisturbed: Callable[[str, str], Driver], tmp_path: Path
) -> None:
    quiet = undisturbed(method, form)
    count, befalls = FAULTS[fault]
    own = slow_method(tmp_path, method, STEP_SECONDS)
    with ExitStack() as opened:
        source = opened.enter_context(serving()).take(quiet.folder / "pictures" / form) if form else ""
        nodes = opened.enter_context(Nodes(count))
        keys = {**keys_of(method, source), "scale.workers": (1, 2), "scale.address": nodes.address}
        run = Driver(tmp_path, own, keys, "disturbed")
        with run.running():
            lives = run.until("all workers", lambda lives: lives and lives[-1].world == count and lives[-1].ids, 120)
            run.until_step(lives[-1].begin + FAULT_AT)
            before, at = len(run.lives()), time.time()
            world = befalls(run, nodes)
            met = run.until(
                f"{world} workers", lambda lives: len(lives) > before and lives[-1].world == world and lives[-1].ids, 120
            )
            lost = max(max(life.ids, default=0) for life in met[:-1]) - met[-1].begin
            seconds = min(met[-1].at.values()) - at
            assert run.end(240) == 0, run.told()
    found, history = apart(quiet, run), run.history()
    print(
        f"\n{method}, {fault}{form and f', {form} on S3'}: next step after {seconds:.1f} s, {lost} steps again; worlds {history.worlds}; "
        f"losses within {found['loss']:.1g}, state within {found['state']:.1g}"
    )
    assert found["steps"] == STEPS
    assert history.skipped == []
    assert len(history.worlds) > 1
    assert found["ids"], "other samples, or in another order"
    assert found["loss"] < 1e-9
    assert found["state"] < 1e-9
