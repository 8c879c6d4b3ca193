"""What methods share must not depend on the number of ranks: gathers, batch norm, stochastic depth."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from contray.methods._base import Batch
from contray.methods._draws import normal
from contray.methods._norms import BatchNorm, DropPath, norm_scope
from contray.methods._ranks import gather, shares
from tests.ranks import run_ranks


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_draws_are_not_compiled():
    """Inductor narrows their 64 bit constants on a GPU."""
    seen = []

    def note(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    batch = Batch({}, torch.arange(4), torch.arange(4), 4)
    run = torch.compile(lambda x: (x * 2) + batch.rand("draws", (3,)), backend=note)
    assert_close(run(torch.ones(4, 3)), 2 + batch.rand("draws", (3,)))
    assert any("mul" in name for name in seen)
    assert not any("xor" in name or "arange" in name for name in seen)


def test_draws_of_the_whole_batch_are_of_no_rank_chunk_or_row():
    whole, part = (Batch({}, rows, rows, 12, seed=3, step=5) for rows in (torch.arange(12), torch.arange(7, 9)))
    draws = whole.draw("slices", (40, 50))
    assert torch.equal(part.draw("slices", (40, 50)), draws)
    assert torch.equal(dataclasses.replace(part, slot=part.slot[:0]).draw("slices", (40, 50)), draws)
    others = [dataclasses.replace(whole, step=6).draw("slices", (40, 50)), dataclasses.replace(whole, seed=4).draw("slices", (40, 50)),
              whole.draw("other", (40, 50)), whole.rand("slices", (50,)).new_zeros(40, 50) + whole.rand("slices", (2000,))[0].reshape(40, 50)]  # fmt: skip
    assert all((other - draws).abs().mean() > 0.2 for other in others)
    assert draws.dtype == torch.float32
    assert 0 <= float(draws.min()) < 0.01 < 0.99 < float(draws.max()) < 1
    assert abs(float(draws.mean()) - 0.5) < 0.02


def test_normal_draws_are_normal_and_finite():
    rows = torch.arange(4)
    draws = normal(Batch({}, rows, rows, 4).draw("normal", (100_000,), torch.float64)).sort().values
    expected = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    assert (draws - expected).abs()[100:-100].max() < 0.1
    assert normal(torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)).isfinite().all()


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


def test_running_statistics_keep_no_graph():
    layer = BatchNorm(3)
    with norm_scope(torch.arange(4), 4, 2):
        layer(torch.randn(4, 3, requires_grad=True))
    assert not layer.running_mean.requires_grad
    assert not layer.running_var.requires_grad


def test_state_dicts_are_interchangeable_with_torch():
    torch.nn.BatchNorm2d(4).load_state_dict(BatchNorm(4).state_dict())
    BatchNorm(4).load_state_dict(torch.nn.BatchNorm2d(4).state_dict())


def test_stochastic_depth_draws_per_slot_and_call():
    layer, x = DropPath(0.5, "block"), torch.ones(24, 3)
    whole = Batch({}, torch.arange(12), torch.arange(12), 12)
    with whole.norm("blocks"):
        first, second = layer(x), layer(x)
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(first, second), "the second call of a step draws anew"
    assert not torch.equal(first[:12], first[12:]), "so does the second crop of a row"
    part = Batch({}, torch.arange(5, 12), torch.arange(5, 12), 12)
    with part.norm("blocks"):
        assert torch.equal(layer(x[:14]).reshape(2, 7, 3), first.reshape(2, 12, 3)[:, 5:])
    assert torch.equal(layer.eval()(x), x)
    with pytest.raises(RuntimeError, match="draws per row"):
        layer.train()(x)
