"""World-size independence: the same loss, gradients, statistics and buffers on any number of ranks, uneven shares included."""

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from contray import model, optim
from contray.config import RunConfig
from methods._base import Batch, Clock
from methods._parts import BatchNorm, gather, norm_scope, shares
from tests.ranks import run_ranks

SIZE = 13
TINY = {
    "train.batch_size": SIZE, "train.precision": "fp64", "train.norm_groups": 3, "backbone.name": "resnet_small", "backbone.width": 4,
    "data.contrast": 0.3,
}  # fmt: skip
METHODS = {
    "simclr": {},
    "simclr multicrop": {},
    "moco v1": {"method.queue_size": 26, "method.dim": 8},
    "moco v2": {"method.queue_size": 40, "method.dim": 8, "method.hidden": 12},
}


def one_step(rank, world, name):
    """Loss, metrics, gradients, buffers and running statistics after one step of SIZE rows on `world` ranks."""
    method_name, _, preset = name.partition(" ")
    config = RunConfig.make(method_name, {**TINY, **METHODS[name]}, preset=preset or "digits")
    method = model.build(config)
    generator = torch.Generator().manual_seed(0)
    names = [(key, view) for entry, view in config.views.items() for key in view.names(entry)]
    pixels = {key: torch.randn(SIZE, 3, 16, 16, generator=generator, dtype=torch.float64) for key, view in names}
    own = shares(SIZE, world)[rank]
    slot = torch.arange(own.start, own.stop)
    batch = Batch(
        {key: value[own.start : own.stop] for key, value in pixels.items()},
        slot + 100,
        slot,
        SIZE,
        norm=lambda layout: norm_scope(slot, SIZE, 3, layout),
    )
    clock = Clock(0, 10 * SIZE, SIZE, SIZE)
    with batch.norm("blocks"):
        reps = method.represent(batch, clock)
        out = method.loss(reps, batch, clock)
    out["loss"].backward()
    params = {name: p for name, p in method.named_parameters() if p.requires_grad}
    optim.sum_gradients(list(params.values()), world)
    method.update(reps, batch, clock)
    values = torch.stack([value.detach().double() for value in out.values()])
    if world > 1:
        dist.all_reduce(values)
    return {
        "values": dict(zip(out, values, strict=True)),
        "gradients": {name: p.grad for name, p in params.items()},
        "buffers": {name: buffer.clone() for name, buffer in method.named_buffers()},
    }


def all_methods(rank, world):
    return {name: one_step(rank, world, name) for name in METHODS}


@pytest.fixture(scope="module")
def worlds():
    return {world: run_ranks(all_methods, world) for world in (1, 2, 3)}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("world", [2, 3])
def test_same_step_on_any_world(worlds, name, world):
    alone = worlds[1][0][name]
    for rank in range(world):
        together = worlds[world][rank][name]
        for part in ("values", "gradients", "buffers"):
            for key, expected in alone[part].items():
                assert expected is not None, f"{key} gets no gradient"
                assert_close(together[part][key], expected, rtol=1e-9, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", METHODS)
def test_buffers_are_bit_equal_on_all_ranks(worlds, name):
    ranks = [result[name]["buffers"] for result in worlds[3]]
    for key, first in ranks[0].items():
        assert all(torch.equal(first, other[key]) for other in ranks[1:]), key


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_gets_a_gradient(worlds, name):
    gradients = worlds[1][0][name]["gradients"]
    assert gradients
    assert all(bool(grad.abs().sum() > 0) for grad in gradients.values())


def gathered(rank, world):
    own = shares(5, world)[rank]
    x = torch.arange(10.0).reshape(5, 2)[own.start : own.stop].requires_grad_()
    rows = gather(x, 5)
    (rows * (rank + 1) * torch.arange(5.0)[:, None]).sum().backward()
    return rows.detach(), x.grad


def test_gather_pads_uneven_shares_and_sums_gradients():
    first, second = run_ranks(gathered, 2)
    assert torch.equal(first[0], torch.arange(10.0).reshape(5, 2))
    assert torch.equal(second[0], first[0])
    # both ranks' losses weigh row i by i * (rank + 1): the sum over ranks is 3 i
    assert torch.equal(torch.cat([first[1], second[1]]), 3 * torch.arange(5.0)[:, None].expand(5, 2))


@pytest.mark.parametrize(("size", "world", "lengths"), [(256, 3, [86, 85, 85]), (4, 4, [1, 1, 1, 1]), (7, 2, [4, 3])])
def test_shares(size, world, lengths):
    parts = shares(size, world)
    assert [len(part) for part in parts] == lengths
    assert [slot for part in parts for slot in part] == list(range(size))


@pytest.mark.parametrize("layout", ["blocks", "strided"])
def test_batch_norm_groups_are_plain_batch_norm_of_each_group(layout):
    torch.manual_seed(0)
    x = torch.randn(12, 5, 3, 3, dtype=torch.float64)
    slot = torch.arange(12)
    ours, plain = BatchNorm(5).double(), torch.nn.BatchNorm2d(5).double()
    with norm_scope(slot, 12, 4, layout):
        y = ours(x)
    for group in range(4):
        rows = slot // 3 == group if layout == "blocks" else slot % 4 == group
        assert_close(y[rows], plain(x[rows]), rtol=1e-12, atol=1e-12)


def test_batch_norm_gradient_is_right():
    torch.manual_seed(0)
    layer = BatchNorm(3).double()
    x = torch.randn(8, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def forward(x, weight, bias):
        with norm_scope(torch.arange(4), 4, 2, track=False), torch.no_grad():
            layer.weight.copy_(weight), layer.bias.copy_(bias)
        with norm_scope(torch.arange(4), 4, 2, track=False):
            return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(forward, (x, weight, bias))


def test_keys_never_share_a_norm_group_with_all_their_queries():
    """MoCo's shuffling: a block of queries is spread over all key groups."""
    slot = torch.arange(32)
    blocks, strided = slot * 8 // 32, slot % 8
    for group in range(8):
        assert len(set(strided[blocks == group].tolist())) == 4


def test_replayed_passes_leave_running_statistics_alone():
    layer = BatchNorm(3)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    with norm_scope(torch.arange(4), 4, 2, track=False):
        layer(torch.randn(4, 3))
    assert all(torch.equal(before[name], buffer) for name, buffer in layer.named_buffers())


def test_state_dicts_are_interchangeable_with_torch():
    torch.nn.BatchNorm2d(4).load_state_dict(BatchNorm(4).state_dict())
    BatchNorm(4).load_state_dict(torch.nn.BatchNorm2d(4).state_dict())
