"""What every method must keep, whoever wrote it: bound to each registered method and each of its `digits` presets.

A step here is the engine's: represent and loss, summed gradients, after_backward, optimiser, EMA, update. What takes minutes (three and four
ranks with all steps of all presets, every method compiled) is run with CONTRAY_CONTRACT=all.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from contray import model
from contray.checking import laws
from contray.checking.gaps import gaps
from contray.checking.steps import GROUPS, SAMPLES, SIZE, STEPS, batch_of, begun, clock_of, one_step, small
from contray.checking.steps import some_steps as steps_of
from contray.config import RunConfig
from contray.config.registry import load_method, method_names
from contray.model import optim
from tests.ranks import run_ranks

pytestmark = pytest.mark.timeout(900)  # whoever comes first waits for all methods on a world

CASES = [f"{name} {preset}" for name in method_names() for preset in load_method(name).presets if preset.startswith("digits")]
ONE_EACH = list({case.split()[0]: case for case in reversed(CASES)}.values())  # the first preset of each method
WHOLE = os.environ.get("CONTRAY_CONTRACT") == "all"
WORLDS = (1, 2, 3, 4) if WHOLE else (1, 2, 3)
COMPILED = (
    ONE_EACH if WHOLE else [case for case in ONE_EACH if case.split()[0] in ("moco", "swav", "mae", "clip", "cpc", "dinov2")]
)


def config_of(case: str, precision: str = "fp64", size: int = SIZE, groups: int = GROUPS) -> RunConfig:
    """The case's preset on a network of a few channels."""
    return small(*case.split(), precision, size, groups)


def some_steps(
    rank: int, world: int, case: str, precision: str, steps: range = range(STEPS), state: Any = None, **shape: int
) -> dict[str, Any]:
    """What came of the steps, from the start or from a state, and the states after each."""
    limit = shape.pop("limit", 0)
    config = config_of(case, precision, **shape).replace({"scale.max_batch_per_worker": limit})
    return steps_of(rank, world, config, steps, state)


def all_cases(rank: int, world: int) -> dict[str, Any]:
    """Every case; one start of the ranks serves them all. In single precision on one and two ranks.

    On three ranks, and on the largest world, one step of one preset of each method, unless all is asked for.
    """
    if world == WORLDS[-1] or (world > 2 and not WHOLE):
        return {case: some_steps(rank, world, case, "fp64", range(1)) for case in ONE_EACH}
    results = {case: some_steps(rank, world, case, "fp64") for case in CASES}
    if world > 2:
        return results
    return results | {f"{case} fp32": some_steps(rank, world, case, "fp32", range(1)) for case in CASES}


def one_more(rank: int, world: int, states: dict[str, Any], step: int) -> dict[str, Any]:
    """One more step of every case, from where the world before left it."""
    return {case: some_steps(rank, world, case, "fp64", range(step, step + 1), states[case])["states"][0] for case in states}


class Worlds(dict[int, list[dict[str, Any]]]):
    """The results on each rank of each world size, computed where they are first asked for, so that no single test waits for all."""

    def __missing__(self, world: int) -> list[dict[str, Any]]:
        self[world] = run_ranks(all_cases, world)
        return self[world]


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return Worlds()


def in_chunks(rank: int, world: int, cases: list[str], size: int, groups: int, limit: int) -> dict[str, Any]:
    """One step of each case, of which no more than `limit` rows are represented at once."""
    return {case: some_steps(rank, world, case, "fp64", range(1), size=size, groups=groups, limit=limit) for case in cases}


@pytest.fixture(scope="module")
def chunked() -> list[dict[str, Any]]:
    return run_ranks(in_chunks, 2, CASES, SIZE, GROUPS, 5)


@pytest.fixture(scope="module")
def changed(worlds: Worlds) -> dict[str, Any]:
    """The states after three steps on 2, 1 and 2 ranks."""
    states = {case: worlds[2][0][case]["states"][0] for case in ONE_EACH}
    for step, world in ((1, 1), (2, 2)):
        states = run_ranks(one_more, world, states, step)[0]
    return states


def assert_same(actual: Any, expected: Any, rtol: float, atol: float, where: str) -> None:
    """No gap (see `gaps`)."""
    found = next(gaps(actual, expected, rtol, atol), None)
    assert found is None, f"{where}: {found}"


@pytest.mark.parametrize("case", CASES)
def test_what_a_step_logs_is_explained_in_the_method_s_file(case: str, worlds: Worlds) -> None:
    file = load_method(case.split()[0])
    assert file.metrics.keys() == worlds[1][0][case]["steps"][0]["values"].keys()
    assert isinstance(file.differs, tuple)
    assert all(len(told) > 20 for told in (*file.metrics.values(), *file.differs))


@pytest.mark.parametrize(
    ("world", "case"), [(world, case) for world in WORLDS[1:] for case in (CASES if world < WORLDS[-1] else ONE_EACH)]
)
def test_the_same_steps_on_any_world(worlds: Worlds, case: str, world: int) -> None:
    assert not laws.same_on_ranks([worlds[world][rank][case] for rank in range(world)], worlds[1][0][case])


@pytest.mark.parametrize("case", CASES)
def test_one_step_in_single_precision_on_two_ranks(worlds: Worlds, case: str) -> None:
    (alone,), (together,) = worlds[1][0][f"{case} fp32"]["steps"], worlds[2][0][f"{case} fp32"]["steps"]
    assert_close(together["values"]["loss"], alone["values"]["loss"], rtol=1e-5, atol=1e-6)
    largest = max(float(grad.abs().max()) for grad in alone["gradients"].values() if grad is not None)
    assert_same(together["gradients"], alone["gradients"], 1e-4, 1e-4 * min(largest, 1.0), case)


@pytest.mark.parametrize("case", CASES)
def test_buffers_are_bit_equal_on_all_ranks(worlds: Worlds, case: str) -> None:
    names = [name for name, _ in model.build(config_of(case), SAMPLES).named_buffers()]
    world = 3 if WHOLE or case in ONE_EACH else 2
    assert not laws.equal_buffers([worlds[world][rank][case] for rank in range(world)], names)


@pytest.mark.parametrize("case", CASES)
def test_losses_are_finite_and_every_parameter_gets_a_gradient(worlds: Worlds, case: str) -> None:
    steps = worlds[1][0][case]["steps"]
    assert not laws.finite(steps)
    assert not laws.trained(steps)


@pytest.mark.parametrize("case", CASES)
def test_chunks_change_nothing(case: str) -> None:
    assert not laws.whole_in_chunks(config_of(case, size=24, groups=8), begun(config_of(case)))


@pytest.mark.parametrize("case", CASES)
def test_chunks_on_two_ranks_change_nothing(worlds: Worlds, chunked: list[dict[str, Any]], case: str) -> None:
    """Of 7 and 6 rows; the middle one of three norm groups stands on both ranks."""
    whole = {name: values[:1] for name, values in worlds[1][0][case].items()}
    for rank in range(2):
        assert_same(chunked[rank][case], whole, 1e-9, 1e-9, f"{case} on rank {rank}")


@pytest.mark.parametrize("case", ONE_EACH)
def test_a_changing_world_changes_nothing(worlds: Worlds, changed: dict[str, Any], case: str) -> None:
    assert_same(changed[case], worlds[1][0][case]["states"][-1], 1e-9, 1e-9, case)


@pytest.mark.parametrize("case", CASES)
def test_a_state_goes_on_bit_equal(worlds: Worlds, case: str) -> None:
    assert not laws.goes_on(config_of(case), worlds[1][0][case])


@pytest.mark.parametrize("case", CASES)
def test_nothing_that_stays_drags_a_graph_along(worlds: Worlds, case: str) -> None:
    assert not laws.graphless(worlds[1][0][case]["graphs"])


@pytest.mark.parametrize("case", CASES)
def test_targets_start_as_exact_copies(case: str) -> None:
    assert not laws.exact_copies(model.build(config_of(case), SAMPLES), load_method(case.split()[0]).paper.ema)


@pytest.mark.parametrize("case", CASES)
def test_no_copy_of_a_network_is_forgotten(worlds: Worlds, case: str) -> None:
    method = model.build(config_of(case), SAMPLES)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.load_state_dict(worlds[1][0][case]["states"][-1]["method"])
    assert not laws.forgotten_copies(method, before)


@pytest.mark.parametrize("case", CASES)
def test_encode_gives_one_row_each_and_changes_nothing(case: str) -> None:
    config = config_of(case, "fp32")
    assert not laws.encodes(config, model.build(config, SAMPLES).eval())


@pytest.mark.parametrize("case", CASES)
def test_no_label_reaches_it_and_no_global_draw_is_made(case: str) -> None:
    config = config_of(case, "fp32")
    method = begun(config)
    batch = batch_of(config, 0)
    assert set(vars(batch)) == {"views", "index", "slot", "size", "seed", "step", "groups", "track", "strided"}
    before = torch.random.get_rng_state()
    one_step(config, method, optim.build(config, method), 0)
    assert torch.equal(torch.random.get_rng_state(), before), "torch's global generator was used"


@pytest.mark.parametrize("case", CASES)
def test_it_works_in_bf16(case: str) -> None:
    config = config_of(case, "bf16")
    method = begun(config)
    step = one_step(config, method, optim.build(config, method), 0)
    assert not laws.finite([step])


@pytest.mark.parametrize("case", COMPILED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_represent_compiles(case: str) -> None:
    config = config_of(case)
    plain, compiled = begun(config), begun(config)
    represent = torch.compile(compiled.represent, backend="eager", dynamic=False)
    torch._dynamo.reset()
    with torch.no_grad():
        batch = batch_of(config, 0)
        with batch.norm("blocks"):
            expected = plain.represent(batch, clock_of(0))
        with batch.norm("blocks"):
            actual = represent(batch, clock_of(0))
    assert_same(dict(actual), dict(expected), 1e-9, 1e-9, case)
