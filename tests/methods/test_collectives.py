"""How often a step asks other ranks for something: what it costs at scale (docs/SCALE.md) is this count, and it must not grow unseen."""

from __future__ import annotations

import collections
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from contray.checking.steps import batch_of, begun, clock_of, small
from contray.methods._base import Method
from contray.methods._norms import BatchNorm, norm_scope
from contray.methods._ranks import shares
from contray.model import gradients
from contray.model.chunks import divide
from contray.model.gradients import Gradients
from contray.training.step import forward_backward
from tests.ranks import run_ranks

GATHERS = ("all_gather", "all_gather_single", "all_gather_into_tensor")
COUNTED = ("all_reduce", *GATHERS, "broadcast", "reduce_scatter_single", "reduce_scatter_tensor")


def counting() -> collections.Counter[str]:
    """Collectives from now on, in this process."""
    counts: collections.Counter[str] = collections.Counter()

    def counted(name: str, real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            counts["gradients" if "async_op" in named else "gather" if "gather" in name else name] += 1
            return real(*given, **named)

        return call

    for name in COUNTED:
        if hasattr(dist, name):
            setattr(dist, name, counted(name, getattr(dist, name)))
    return counts


def step_of(rank: int, world: int, groups: int) -> dict[str, int]:
    """What a step of MoCo on the digits asks; its layers: how many calls of batch norm there are."""
    config = small("moco", "digits", size=16, groups=groups)
    method, calls = begun(config), [0]
    for layer in method.modules():
        if isinstance(layer, BatchNorm):
            layer.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    counts = counting()
    batch = batch_of(config, 0, rank, world)
    chunks = divide(method, batch.size, batch.groups, 0, world, rank)
    forward_backward(config, method, batch, clock_of(0), chunks, Gradients(method))
    return {"gradients": counts.pop("gradients"), "forward and backward": sum(counts.values()), "layers": calls[0]}


@pytest.fixture(scope="module")
def steps() -> dict[int, dict[str, int]]:
    return {groups: run_ranks(step_of, 2, groups)[0] for groups in (1, 4)}


def test_a_layer_asks_once_in_each_direction(steps: dict[int, dict[str, int]]) -> None:
    found = steps[1]
    assert found["layers"] > 5
    others = found["forward and backward"] - 2 * found["layers"]
    assert others <= 6, "gathers of the loss"


def test_groups_within_a_rank_ask_nobody(steps: dict[int, dict[str, int]]) -> None:
    """Keys' groups are strided over ranks on purpose; all others lie within one, and share one sum of running statistics."""
    keys = steps[4]["layers"] // 2
    assert steps[4]["forward and backward"] <= keys + 1 + 6


def test_gradients_go_in_few_buckets(steps: dict[int, dict[str, int]]) -> None:
    assert steps[1]["gradients"] == 1


class Stack(Method):
    """Five layers, of which the fourth has no part in the loss and the last is used twice, after what could be a norm."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(8, 8, dtype=torch.float64) for _ in range(5)])
        self.layers[1].weight.data = self.layers[1].weight.data.T.contiguous().T  # as channels_last has it: other strides

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*self.layers[:3], self.layers[4]]:
            x = layer(x).tanh()
        return self.layers[4](x).square().sum()


def in_buckets(rank: int, world: int, passes: int) -> dict[str, Any]:
    """Gradients of two steps, and whether a bucket was on its way before the backward pass had come to the first layer."""
    gradients.BUCKET = 8 * (64 + 8)  # one layer each
    method, found, under_way = Stack(), [], []
    sums = Gradients(method)
    method.layers[0].weight.register_hook(lambda grad: under_way.append(sums.sent))
    rows = torch.randn(2, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own = shares(12, world)[rank]
    for each in rows:
        for i, part in enumerate(each[own.start : own.stop].chunk(passes)):
            with sums.overlapped() if i + 1 == passes else nullcontext():
                method(part).backward()
        sums.sum()
        found.append({name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None})
        method.zero_grad(set_to_none=True)
    return {"found": found, "under_way": under_way, "buckets": len(sums.buckets)}


@pytest.mark.parametrize("passes", [1, 2])
def test_gradients_are_sent_while_the_backward_pass_runs(passes: int) -> None:
    alone, together = in_buckets(0, 1, 1), run_ranks(in_buckets, 2, passes)
    for step, whole in enumerate(alone["found"]):
        for name, grad in together[0]["found"][step].items():
            assert torch.equal(grad, together[1]["found"][step][name]), "bit for bit on all ranks"
            torch.testing.assert_close(grad, whole.get(name, torch.zeros_like(grad)), rtol=1e-12, atol=1e-12)
    assert together[0]["buckets"] == 5
    early = together[0]["under_way"][passes - 1 :: passes]
    assert early == [1, 1], "the last layer's; the fourth's, which waits for what never comes, holds the others up"
    assert not any(together[0]["under_way"][: passes - 1]), "nothing is sent before the last pass"


def normed(rank: int, world: int, size: int, groups: int, layout: str) -> dict[str, Any]:
    """Outputs, gradients and running statistics of three calls of two layers over a batch of `size` rows."""
    torch.manual_seed(0)
    rows = torch.randn(3, size, 6, dtype=torch.float64)
    own = shares(size, world)[rank]
    net = nn.ModuleList([BatchNorm(6).double() for _ in range(2)])
    counts = counting()
    slot = torch.arange(own.start, own.stop)
    outs, leaves = [], []
    with norm_scope(slot, size, groups, layout):
        for each in rows:
            x = each[own.start : own.stop].clone().requires_grad_()
            with norm_scope(slot, size, groups, "strided"):
                middle = net[0](x)
            outs.append(net[1](middle) + net[1](x))
            leaves.append(x)
        before = net[1].running_mean.clone()
    sum(out.pow(3).sum() for out in outs).backward()  # pyright: ignore[reportAttributeAccessIssue]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    return {
        "state": state, "out": torch.stack([out.detach() for out in outs]), "grad": torch.stack([leaf.grad for leaf in leaves]),  # pyright: ignore[reportArgumentType]
        "waited": torch.equal(before, torch.zeros(6, dtype=torch.float64)), "counts": dict(counts),
    }  # fmt: skip


CASES = [(12, 4, "blocks", True), (12, 3, "blocks", False), (10, 2, "blocks", True), (12, 4, "strided", False)]


@pytest.mark.parametrize(("size", "groups", "layout", "within"), CASES)
def test_what_is_asked_for_changes_nothing_that_is_computed(size: int, groups: int, layout: str, within: bool) -> None:
    alone = normed(0, 1, size, groups, layout)
    together = run_ranks(normed, 2, size, groups, layout)
    for name in ("out", "grad"):
        torch.testing.assert_close(torch.cat([each[name] for each in together], 1), alone[name], rtol=1e-12, atol=1e-12)
    for name, value in alone["state"].items():
        torch.testing.assert_close(together[0]["state"][name], value, rtol=1e-12, atol=1e-12)
        assert torch.equal(together[0]["state"][name], together[1]["state"][name]), "bit for bit on all ranks"
    asked = together[0]["counts"]
    if within:  # the strided calls of the first layer gather, the blocks of the second do not, but for one sum at the end
        assert asked == {"gather": 3, "all_reduce": 1 + 3}
    else:
        assert asked["gather"] == 9
