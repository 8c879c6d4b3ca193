"""How many processes prepare batches: `data.workers`, and what its `auto` comes to where it runs."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contray import RunConfig, data
from contray.errors import ConfigError
from contray.evaluation.common.features import images_of
from contray.model import hardware
from contray.planning.cost import Cost
from contray.planning.estimates import estimate
from contray.planning.facts import Images, Machine, look
from contray.planning.trial import Trial
from contray.training import loop

SMALL = {
    "train.device": "cpu", "train.precision": "fp32", "train.steps": 2, "train.batch_size": 4, "eval.every_epochs": 0, "scale.workers": (0, 0),
}  # fmt: skip
COSTS = Trial(1e-3, 1e-3, 1e-3, 1e-4, 0.0, 1_000_000, 10_000_000, 4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(12):
        cv2.imwrite(str(folder / f"{i}.png"), draws.integers(0, 256, (40, 48, 3), np.uint8))
    return str(folder)


def config(**keys: Any) -> RunConfig:
    given = {key.replace("__", ".", 1): value for key, value in keys.items()}
    return RunConfig.make("simclr", {**SMALL, **given}, preset="digits")


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, threads: int) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    monkeypatch.setattr(hardware.torch, "get_num_threads", lambda: threads)


def counts(asked: Any) -> bool:
    try:
        return not isinstance(asked, bool) and float(str(asked)).is_integer() and float(str(asked)) >= 0
    except ValueError:
        return False


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    (st.text(max_size=8) | st.integers(max_value=-1) | st.floats() | st.booleans() | st.none()).filter(lambda x: not counts(x))
)
def test_what_is_no_number_of_processes_is_refused_by_its_key(asked: Any) -> None:
    with pytest.raises(ConfigError, match=r"(?s)^data\.workers: got .* an integer >= 0, or auto$"):
        config(data__workers=asked)


@pytest.mark.parametrize(("asked", "found"), [("auto", "auto"), (" auto ", "auto"), (["auto"], "auto"), (3, 3), ("0", 0)])
def test_auto_is_one(asked: Any, found: int | str) -> None:
    taken = config(data__workers=asked)
    assert taken.data.workers == found
    assert type(taken.data.workers) is type(found)
    assert RunConfig.from_yaml(taken.to_yaml()).data.workers == found


def test_it_is_auto_by_default_and_no_part_of_a_run_s_name() -> None:
    plain = config()
    assert plain.data.workers == "auto"
    assert {config(data__workers=count).digest() for count in (0, 1, 7, "auto")} == {plain.digest()}
    assert RunConfig.make("simclr", preset="digits").digest("method") == "835d6210"  # as when its default was 1


@pytest.mark.parametrize(
    ("cores", "held", "kind", "found", "why"),
    [
        (1, False, "cpu", 0, "one core"),
        (1, True, "cpu", 0, "one core"),
        (1, True, "cuda", 1, "one core, beside a GPU"),
        (2, False, "cpu", 1, "2 cores less one"),
        (2, True, "cpu", 1, "the images are in memory, and the cores train"),
        (8, True, "cuda", 7, "8 cores less one"),
        (17, False, "cpu", 16, "17 cores less one"),
        (64, False, "cpu", 16, "64 cores less one, 16 at most"),
    ],
)
def test_a_core_is_left_to_the_loop(cores: int, held: bool, kind: str, found: int, why: str) -> None:
    assert hardware.spared(cores, held, kind) == (found, why)


def test_it_is_decided_by_the_cores_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cores=8, threads=8)
    assert hardware.loaders(config()) == 7
    machine(monkeypatch, cores=8, threads=4)  # the machine is shared by two ranks
    assert hardware.loaders(config()) == 3
    machine(monkeypatch, cores=2, threads=8)  # a control group that torch does not know
    assert hardware.loaders(config()) == 1
    assert hardware.loaders(config(data__workers=5), held=True) == 5  # what is asked for is given
    assert hardware.loaders(config(data__workers=0)) == 0


@pytest.mark.parametrize(("memory", "workers"), [(0.0, 2), (1.0, 1)])
def test_training_begins_with_as_many_as_the_dry_run_says(
    photos: str, memory: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        pass

    def loader(*args: Any, workers: int, **options: Any) -> Any:
        raise Begun(workers)

    machine(monkeypatch, cores=3, threads=3)
    asked = config(data__source=photos, data__memory_gb=memory, data__test_share=0)
    source = data.open_source(asked)
    cost = Cost.of(asked, look(asked, source), Machine("cpu", 3, 16e9), COSTS)
    assert cost.loaders == workers
    monkeypatch.setattr(loop.data, "loader", loader)
    with pytest.raises(Begun) as begun:
        loop.train(asked, source)
    assert begun.value.args == (workers,)


@pytest.mark.parametrize(
    ("keys", "here", "words"),
    [
        ({}, Machine("cpu", 4, 16e9), "made on the CPU, in 3 processes of each worker (auto: 4 cores less one)"),
        ({}, Machine("cpu", 1, 16e9), "made on the CPU, in the training process of each worker (auto: one core)"),
        ({"scale__workers": (1, 2)}, Machine("cpu", 4, 16e9), "made on the CPU, in 1 process of each worker (auto: 2 cores less one)"),
        ({"scale__cpus_per_worker": 3}, Machine("cpu", 8, 16e9), "made on the CPU, in 2 processes of each worker (auto: 3 cores less one)"),
        ({"data__workers": 2}, Machine("cpu", 4, 16e9), "made on the CPU, in 2 processes of each worker"),
        (
            {"data__augment_on": "device"}, Machine("cpu", 2, 16e9),
            "made in batches on the device, from whole images of 8 bits that 1 process of each worker (auto: 2 cores less one) reads",
        ),
    ],
)  # fmt: skip
def test_the_dry_run_says_how_many_and_why(photos: str, keys: dict[str, Any], here: Machine, words: str) -> None:
    asked = config(data__source=photos, data__memory_gb=0.0, data__test_share=0, **keys)
    source = data.open_source(asked)
    assert estimate(asked, source, Cost.of(asked, look(asked, source), here, COSTS)).facts["views"] == words


def test_a_plan_counts_for_itself() -> None:
    """It has measured what a batch costs beside a step; a number that was given stays."""
    images = Images(1000, cached=True)
    open_to = RunConfig.make("simclr", {"data.source": "photos/", "train.device": "cpu"})
    assert "data.workers" in open_to.train.planned
    heavy = Trial(1e-3, 1e-3, 1e-1, 1e-4, 0.0, 1_000_000, 10_000_000, 4)
    assert Cost.of(open_to, images, Machine("cpu", 4, 16e9), heavy).loaders == 4
    assert Cost.of(open_to.replace({"data.workers": 2}), images, Machine("cpu", 4, 16e9), heavy).loaders == 2
    assert Cost.of(config(data__source="photos/"), images, Machine("cpu", 4, 16e9), heavy).loaders == 1


def test_evaluations_ask_as_training_does(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(data__source=photos, data__memory_gb=0.0, data__test_share=0)
    split = data.open_source(asked).train
    for cores, workers in ((1, 0), (3, 2)):
        machine(monkeypatch, cores, cores)
        assert images_of(asked, split, [0, 1]).workers == workers
