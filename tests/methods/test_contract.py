"""What every method must keep, whoever wrote it: bound to each registered method and each of its `digits` presets.

A step here is the engine's: represent and loss, summed gradients, after_backward, optimiser, EMA, update.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from contray import model
from contray.config import RunConfig
from contray.config.registry import load_method, method_names
from contray.data.views import Fetch, Pipeline
from contray.methods._base import Batch, Clock, Method, View
from contray.methods._ranks import shares
from contray.model import optim
from contray.model.chunks import divide
from contray.training.step import forward_backward
from tests.ranks import run_ranks

pytestmark = pytest.mark.timeout(900)  # whoever comes first waits for all methods on a world

SIZE, SAMPLES, GROUPS = 13, 2000, 3  # 13 rows are 7 + 6 on two ranks and 5 + 4 + 4 on three
CASES = [f"{name} {preset}" for name in method_names() for preset in load_method(name).presets if preset.startswith("digits")]
STEPS, WORLDS = 3, (1, 2, 3, 4)


def config_of(case: str, precision: str = "fp64", size: int = SIZE, groups: int = GROUPS) -> RunConfig:
    """The case's preset on a network of a few channels; SGD, since an adaptive rate would hide gradients that are off by a factor.

    A ViT of fewer than 16 features gives all rows nearly the same class token, and batch norm would blow the rounding up.
    """
    name, preset = case.split()
    config = RunConfig.make(name, preset=preset)
    return config.replace(
        {
            "backbone.width": 16 if config.backbone.name == "vit_mini" else 4, "train.batch_size": size, "train.precision": precision,
            "train.norm_groups": groups, "train.channels_last": False, "optim.name": "sgd", "optim.lr": 0.01, "optim.lr_scaling": "none",
            "optim.warmup_epochs": 0, "optim.clip": 0,
        }
    )  # fmt: skip


def batch_of(config: RunConfig, step: int, rank: int = 0, world: int = 1) -> Batch:
    """This rank's rows of the step's global batch: noise as uint8 pictures through the method's own views, as the loader gives them."""
    size = config.train.batch_size
    own = shares(size, world)[rank]
    pipeline, rows = Pipeline(config.views, strength=0.0), []
    for slot in own:
        rows.append(pipeline(columns_of(config.views, 100 * step + slot), (0, step, slot)))
    normalise = model.normaliser(config, torch.device("cpu"))
    views = {key: normalise(torch.stack([torch.from_numpy(row[key]) for row in rows])) for key in rows[0]}
    slot = torch.arange(own.start, own.stop)
    return Batch(views, (slot * 7 + step * size) % SAMPLES, slot, size, seed=1, step=step, groups=config.train.norm_groups)


def columns_of(views: Mapping[str, View], seed: int) -> Fetch:
    """Noise for every column that the views want: pictures, arrays, texts."""
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for view in views.values():
        if view.kind == "tokens":
            made[view.source] = "".join(map(chr, rng.integers(32, 127, rng.integers(5, 60))))
        elif view.kind == "array":
            made[view.source] = rng.random((view.channels, view.size + 40), np.float32)
        else:
            made[view.source] = rng.integers(0, 256, (36, 36, 3), np.uint8)
    return lambda column, rng: made[column]


def clock_of(step: int) -> Clock:
    """The middle of a long run, behind all warm-ups and freezes: 10 steps are an epoch."""
    return Clock((500 + step) * SIZE, 1000 * SIZE, 10 * SIZE, SIZE)


def begun(config: RunConfig, samples: int = SAMPLES) -> Method:
    """A method at the start of an epoch."""
    method = model.build(config, samples).train()
    features = torch.randn(
        samples, method.out_dim, generator=torch.Generator().manual_seed(0), dtype=model.DTYPES[config.train.precision]
    )
    list(method.begin_epoch(clock_of(0), lambda: features))
    return method


def one_step(
    config: RunConfig, method: Method, optimizer: torch.optim.Optimizer, step: int, rank: int = 0, world: int = 1
) -> dict[str, Any]:
    """The metrics of the global batch and the summed gradients; represented in chunks where the config has a limit."""
    batch, clock = batch_of(config, step, rank, world), clock_of(step)
    params = {name: p for name, p in method.named_parameters() if p.requires_grad}
    chunks = divide(method, batch.size, batch.groups, config.scale.max_batch_per_worker, world, rank)
    reps, out = forward_backward(config, method, batch, clock, chunks)
    optim.sum_gradients(list(params.values()), world)
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in params.items()}
    values = torch.stack([value.detach().double() for value in out.values()])
    if world > 1:
        dist.all_reduce(values)
    method.after_backward(clock)
    optimizer.step()
    optimizer.zero_grad()
    for online, target in method.ema_pairs():
        for a, b in zip(online.parameters(), target.parameters(), strict=True):
            b.data.lerp_(a.data, 1 - method.ema_momentum(clock))
    method.update(reps, batch, clock)
    return {"values": dict(zip(out, values, strict=True)), "gradients": gradients}


def some_steps(
    rank: int, world: int, case: str, precision: str, steps: range = range(STEPS), state: Any = None, **shape: int
) -> dict[str, Any]:
    """What came of the steps, from the start or from a state, and the states after each."""
    limit = shape.pop("limit", 0)
    config = config_of(case, precision, **shape).replace({"scale.max_batch_per_worker": limit})
    method = begun(config)
    optimizer = optim.build(config, method)
    if state is not None:
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    done, states = [], []
    for step in steps:
        done.append(one_step(config, method, optimizer, step, rank, world))
        states.append(copy.deepcopy({"method": method.state_dict(), "optimizer": optimizer.state_dict()}))
    return {"steps": done, "states": states}


def all_cases(rank: int, world: int) -> dict[str, Any]:
    """Every case in both precisions; one start of the ranks serves them all. The largest world, of more ranks than cores, does one step in fp64."""
    if world == WORLDS[-1]:
        return {case: some_steps(rank, world, case, "fp64", range(1)) for case in CASES}
    results = {case: some_steps(rank, world, case, "fp64") for case in CASES}
    return results | {f"{case} fp32": some_steps(rank, world, case, "fp32", range(1)) for case in CASES}


def one_more(rank: int, world: int, states: dict[str, Any], step: int) -> dict[str, Any]:
    """One more step of every case, from where the world before left it."""
    return {case: some_steps(rank, world, case, "fp64", range(step, step + 1), states[case])["states"][0] for case in CASES}


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
    states = {case: worlds[2][0][case]["states"][0] for case in CASES}
    for step, world in ((1, 1), (2, 2)):
        states = run_ranks(one_more, world, states, step)[0]
    return states


def assert_same(actual: Any, expected: Any, rtol: float, atol: float, where: str) -> None:
    """Tensors in nested dicts and lists are close (atol in units of a tensor's largest value, at least 1); whole numbers equal."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            assert_same(actual[key], expected[key], rtol, atol, f"{where}/{key}")
    elif isinstance(expected, list):
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(one, other, rtol, atol, f"{where}/{i}")
    elif isinstance(expected, torch.Tensor):
        largest = float(expected.abs().max()) if expected.is_floating_point() and expected.numel() else 0.0
        assert_close(actual, expected, rtol=rtol, atol=atol * max(1.0, largest), msg=lambda text: f"{where}: {text}")
    else:
        assert actual == expected, where


@pytest.mark.parametrize("case", CASES)
def test_what_a_step_logs_is_explained_in_the_method_s_file(case: str, worlds: Worlds) -> None:
    file = load_method(case.split()[0])
    assert file.metrics.keys() == worlds[1][0][case]["steps"][0]["values"].keys()
    assert isinstance(file.differs, tuple)
    assert all(len(told) > 20 for told in (*file.metrics.values(), *file.differs))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", WORLDS[1:])
def test_the_same_steps_on_any_world(worlds: Worlds, case: str, world: int) -> None:
    alone = worlds[1][0][case]
    for rank in range(world):
        together = worlds[world][rank][case]
        assert_same(together["steps"], alone["steps"][: len(together["steps"])], 1e-9, 1e-9, f"{case} on rank {rank}")
        assert_same(together["states"][-1], alone["states"][len(together["states"]) - 1], 1e-9, 1e-9, f"{case} on rank {rank}")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", WORLDS[1:-1])
def test_one_step_in_single_precision_on_any_world(worlds: Worlds, case: str, world: int) -> None:
    (alone,), (together,) = worlds[1][0][f"{case} fp32"]["steps"], worlds[world][0][f"{case} fp32"]["steps"]
    assert_close(together["values"]["loss"], alone["values"]["loss"], rtol=1e-5, atol=1e-6)
    largest = max(float(grad.abs().max()) for grad in alone["gradients"].values() if grad is not None)
    assert_same(together["gradients"], alone["gradients"], 1e-4, 1e-4 * min(largest, 1.0), case)


@pytest.mark.parametrize("case", CASES)
def test_buffers_are_bit_equal_on_all_ranks(worlds: Worlds, case: str) -> None:
    names = [name for name, _ in model.build(config_of(case), SAMPLES).named_buffers()]
    first, *others = [worlds[3][rank][case]["states"][-1]["method"] for rank in range(3)]
    for name in set(names) & first.keys():  # what is not in the state is constant
        assert all(torch.equal(first[name], other[name]) for other in others), name


@pytest.mark.parametrize("case", CASES)
def test_losses_are_finite_and_every_parameter_gets_a_gradient(worlds: Worlds, case: str) -> None:
    steps = worlds[1][0][case]["steps"]
    assert all(value.isfinite() for step in steps for value in step["values"].values())
    for name in steps[0]["gradients"]:
        grads = [step["gradients"][name] for step in steps]
        assert any(grad is not None and grad.abs().sum() > 0 for grad in grads), f"{name} gets no gradient"
        assert all(grad is None or grad.isfinite().all() for grad in grads), name


@pytest.mark.parametrize("case", CASES)
def test_chunks_change_nothing(case: str) -> None:
    size, groups = 24, 8
    whole = in_chunks(0, 1, [case], size, groups, 0)
    for limit, chunks in ((12, 2), (3, 8)):
        assert len(divide(begun(config_of(case)), size, groups, limit, 1, 0)) == chunks
        assert_same(in_chunks(0, 1, [case], size, groups, limit), whole, 1e-9, 1e-9, f"{chunks} chunks")


@pytest.mark.parametrize("case", CASES)
def test_chunks_on_two_ranks_change_nothing(worlds: Worlds, chunked: list[dict[str, Any]], case: str) -> None:
    """Of 7 and 6 rows; the middle one of three norm groups stands on both ranks."""
    whole = {name: values[:1] for name, values in worlds[1][0][case].items()}
    for rank in range(2):
        assert_same(chunked[rank][case], whole, 1e-9, 1e-9, f"{case} on rank {rank}")


@pytest.mark.parametrize("case", CASES)
def test_a_changing_world_changes_nothing(worlds: Worlds, changed: dict[str, Any], case: str) -> None:
    assert_same(changed[case], worlds[1][0][case]["states"][-1], 1e-9, 1e-9, case)


@pytest.mark.parametrize("case", CASES)
def test_a_state_goes_on_bit_equal(worlds: Worlds, case: str) -> None:
    whole = worlds[1][0][case]
    for cut in range(1, STEPS):
        rest = some_steps(0, 1, case, "fp64", range(cut, STEPS), whole["states"][cut - 1])
        assert_same(rest["steps"], whole["steps"][cut:], 0, 0, case)
        assert_same(rest["states"], whole["states"][cut:], 0, 0, case)


@pytest.mark.parametrize("case", CASES)
def test_targets_start_as_exact_copies(case: str) -> None:
    method = model.build(config_of(case), SAMPLES)
    pairs = list(method.ema_pairs())
    declared = load_method(case.split()[0]).paper.ema
    assert declared == "optional" or bool(pairs) == (declared != "no"), "the method table says otherwise"
    for online, target in pairs:
        ours, theirs = online.state_dict(), target.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert not any(p.requires_grad for p in target.parameters())


@pytest.mark.parametrize("case", CASES)
def test_encode_gives_one_row_each_and_changes_nothing(case: str) -> None:
    config = config_of(case, "fp32")
    method = model.build(config, SAMPLES).eval()
    views = load_method(config.method.name).method.eval_views(config.views)
    drawn = [Pipeline(views, 0.0)(columns_of(views, i), (0, 0, i)) for i in range(5)]
    normalise = model.normaliser(config, torch.device("cpu"))
    inputs = {key: normalise(torch.stack([torch.from_numpy(row[key]) for row in drawn])) for key in drawn[0]}
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with torch.no_grad():
        features = method.encode(inputs)
        assert torch.equal(features, method.encode(inputs))
        assert_close(features[:2], method.encode({key: value[:2] for key, value in inputs.items()}), rtol=1e-4, atol=1e-5)
        assert set(method.taps(inputs)) >= {"backbone"}
    assert features.shape == (5, method.out_dim)
    assert features.isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


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
    assert step["values"]["loss"].isfinite()
    assert all(grad is None or grad.isfinite().all() for grad in step["gradients"].values())


@pytest.mark.parametrize("case", CASES)
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
