"""Less memory for the same numbers: the optimiser's state shared out over ranks, and blocks that are computed again in the backward pass."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contray import model
from contray.checking.steps import batch_of, begun, clock_of, small
from contray.config import RunConfig
from contray.errors import ConfigError
from contray.methods._base import Method
from contray.model import optim
from contray.model.chunks import divide
from contray.model.gradients import Gradients
from contray.model.recompute import blocks_of, recompute, seen, unlike
from contray.model.sharding import Sharded
from contray.storage.checkpoint import BEST
from contray.storage.folder import Storage
from contray.training.step import forward_backward
from tests.contray.test_loop import Losses, run, tiny
from tests.ranks import run_ranks

OPTIMISERS, TOGETHER = ("sgd", "adamw", "lars"), ("moco", "mae")

# ---------------------------------------------------------------- the optimiser's state


def config_of(optimiser: str) -> RunConfig:
    """Channels last, since what is sent must keep its layout."""
    return small("byol", "digits", size=12).replace({"optim.name": optimiser, "optim.decay_norms": False})


def steps(rank: int, world: int, optimiser: str, shard: bool, state: Any = None, count: int = 3) -> dict[str, Any]:
    """Weights after some steps, this rank's optimiser state in bytes, and what a checkpoint holds."""
    config = config_of(optimiser)
    method = begun(config).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    sharded = Sharded(optim.build(config, method), shard)
    first = 0
    if state:
        method.load_state_dict(state["method"])
        sharded.load_state_dict(copy.deepcopy(state["optimizer"]))
        first = 3
    strides = {name: p.stride() for name, p in method.named_parameters()}
    for step in range(first, first + count):
        batch, clock = batch_of(config, step, rank, world), clock_of(step)
        chunks = divide(method, batch.size, batch.groups, 0, world, rank)
        optim.set_schedules(sharded.optimizer, config, clock)
        forward_backward(config, method, batch, clock, chunks, Gradients(method))
        sharded.step()
        sharded.optimizer.zero_grad()
    own = sum(v.nbytes for of in sharded.optimizer.state.values() for v in of.values() if isinstance(v, torch.Tensor))
    return {
        "weights": {name: p.detach() for name, p in method.named_parameters()}, "bytes": own,
        "kept": {"method": method.state_dict(), "optimizer": sharded.state_dict()},
        "strides": strides == {name: p.stride() for name, p in method.named_parameters()},
    }  # fmt: skip


def all_steps(rank: int, world: int, shard: bool) -> dict[str, Any]:
    return {optimiser: steps(rank, world, optimiser, shard) for optimiser in OPTIMISERS}


@pytest.fixture(scope="module")
def both() -> tuple[list[Any], list[Any]]:
    """Of two ranks that have all, and of two that share it out."""
    return run_ranks(all_steps, 2, False), run_ranks(all_steps, 2, True)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_shared_out_state_makes_the_same_steps_and_the_same_checkpoint(
    optimiser: str, both: tuple[list[Any], list[Any]]
) -> None:
    whole, parts = ([each[optimiser] for each in found] for found in both)
    for each in parts:
        assert each["strides"]
        for name, weight in whole[0]["weights"].items():
            assert torch.equal(each["weights"][name], weight), name
    assert sum(each["bytes"] for each in parts) == whole[0]["bytes"]
    assert max(each["bytes"] for each in parts) < 0.7 * whole[0]["bytes"]
    ours, theirs = parts[0]["kept"]["optimizer"], whole[0]["kept"]["optimizer"]
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for i, of in theirs["state"].items():
        for key, value in of.items():
            assert (
                torch.equal(ours["state"][i][key], value) if isinstance(value, torch.Tensor) else ours["state"][i][key] == value
            )


def test_any_world_goes_on_from_a_shared_out_state(both: tuple[list[Any], list[Any]]) -> None:
    """Two ranks, then three, against one: within what a sum over other shares rounds to."""
    kept = both[1][0]["adamw"]["kept"]
    three, alone = run_ranks(steps, 3, "adamw", True, kept)[0], steps(0, 1, "adamw", True, kept)
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(three["weights"][name], weight, rtol=1e-8, atol=1e-8)


# ---------------------------------------------------------------- blocks


def gradients_of(
    rank: int, world: int, name: str, again: bool, limit: int = 0, groups: int = 4
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Gradients, buffers, and the most elements that the forward pass left for the backward pass."""
    config = small(name, "digits", size=12, groups=groups).replace({"scale.max_batch_per_worker": limit})
    if config.backbone.name == "vit_mini":
        config = config.replace({"backbone.drop_path": 0.5})
    method, kept = begun(config), dict[int, int]()
    blocks = recompute(method) if again else []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.numel()
        return x

    seen(blocks, keep)
    batch = batch_of(config, 0, rank, world)
    chunks = divide(method, batch.size, batch.groups, limit, world, rank)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        forward_backward(config, method, batch, clock_of(0), chunks, Gradients(method))
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return gradients, dict(method.named_buffers()), sum(kept.values())


def on_two_ranks(rank: int, world: int, again: bool) -> dict[str, Any]:
    return {name: gradients_of(rank, world, name, again) for name in TOGETHER}


@pytest.fixture(scope="module")
def together() -> list[dict[str, Any]]:
    """Without and with it, on the first of two ranks."""
    return [run_ranks(on_two_ranks, 2, again)[0] for again in (False, True)]


@pytest.mark.parametrize(
    ("name", "world", "limit", "groups"),
    [("moco", 1, 0, 4), ("simclr", 1, 0, 1), ("byol", 1, 6, 4), ("dino", 1, 0, 4), *((name, 2, 0, 4) for name in TOGETHER)],
)
def test_blocks_computed_again_change_no_bit(
    name: str, world: int, limit: int, groups: int, together: list[dict[str, Any]]
) -> None:
    """Gradients and running statistics, where norms ask other ranks and where paths are dropped."""
    if world == 1:
        plain, again = (gradients_of(0, 1, name, each, limit, groups) for each in (False, True))
    else:
        plain, again = (found[name] for found in together)
    for ours, theirs in zip(again[:2], plain[:2], strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(ours[key], value), key
    assert again[2] < 0.8 * plain[2]


class Net(nn.Module):
    """Blocks that take a list and write into it, or, `in_place`, into the tensors that they are given."""

    out_dim = 4

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.begin = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(*(Block(in_place) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks([self.begin(x)])[0].mean((2, 3))


class Block(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.a, self.b, self.in_place = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), in_place

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        if self.in_place:
            xs[0] += 1
        xs[0] = xs[0] + self.b(self.a(xs[0]).tanh())
        return xs


class Keeping(Net):
    """Its blocks count how often they ran."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.forward = partial(self.counting, block, block.forward)

    def counting(self, block: Any, forward: Any, xs: list[Tensor]) -> list[Tensor]:
        block.calls = getattr(block, "calls", 0) + 1
        return [x * block.calls for x in forward(xs)]


def test_what_goes_into_a_block_is_seen_in_lists_too() -> None:
    net, found = Net(), list[Tensor]()
    seen(blocks_of(net), found.append)
    net(torch.rand(2, 3, 16, 16))
    assert [each.shape for each in found] == [(2, 4, 14, 14)] * 2


def test_what_cannot_be_computed_again_is_refused() -> None:
    class Holder(Method):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.backbone = nn.Sequential(nn.Linear(4, 4))
            self.backbone.out_dim = 4  # pyright: ignore[reportArgumentType]

    with pytest.raises(
        ConfigError, match=r"scale.activation_checkpointing: backbone \(Sequential\) has no blocks.*max_batch_per_worker"
    ):
        recompute(Holder())
    with pytest.raises(ConfigError, match="compile"):
        RunConfig.make("simclr", {"scale.activation_checkpointing": True, "train.compile": True}, preset="digits")
    keys = {"backbone.name": "alexnet", "views.view.size": 64, "scale.activation_checkpointing": True}
    with pytest.raises(ConfigError, match="got true, but alexnet has no blocks"):
        model.check(RunConfig.make("simclr", keys, preset="digits"), 1000)
    assert unlike(Net(), 3, 16) == ""
    assert "other gradients" in unlike(Keeping(), 3, 16)
    with pytest.raises(ConfigError, match=r"a block \(Block\) changes in place what it is given"):
        unlike(Net(in_place=True), 3, 16)


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("resnet18", "BasicBlock", 8), ("convnext_tiny", "CNBlock", 18), ("swin_t", "SwinTransformerBlock", 12), ("densenet121", "_DenseLayer", 58),
        ("mobilenet_v3_small", "InvertedResidual", 11),
    ],
)  # fmt: skip
def test_blocks_are_the_least_that_a_stage_holds(name: str, kind: str, count: int) -> None:
    import torchvision

    with torch.device("meta"):
        blocks = blocks_of(getattr(torchvision.models, name)())
    assert {type(block).__name__ for block in blocks} == {kind}
    assert len(blocks) == count


# ---------------------------------------------------------------- whole runs

KEYS = {"train.precision": "fp64", "train.steps": 6, "eval.every_epochs": 0.1, "optim.name": "adamw", "train.checkpoint_steps": 2}


class Stops(Losses):
    """Someone asks the run to stop after `at` steps."""

    at = 0

    def stop(self) -> bool:
        return bool(self.at) and max(self.loss, default=0) >= self.at


def part_of_a_run(rank: int, world: int, folder: str, thrifty: bool, at: int) -> tuple[dict[int, float], dict[str, Any]]:
    keys = {"scale.shard_optimizer": thrifty, "scale.activation_checkpointing": thrifty}
    config = tiny("moco").replace({**KEYS, **keys})
    told = Stops()
    told.at = at
    storage = Storage(folder)
    storage.create()
    outcome, _ = run(config, storage, told)
    return told.loss, outcome.method.state_dict()


def test_a_thrifty_run_goes_on_with_more_workers_and_with_fewer(tmp_path: Path) -> None:
    """With the best checkpoint of an online evaluation, which rank 0 alone knows of."""
    losses, state = part_of_a_run(0, 1, str(tmp_path / "whole"), False, 0)
    thrifty: dict[int, float] = {}
    for world, at in ((2, 2), (3, 4), (1, 0)):
        found, ours = run_ranks(part_of_a_run, world, str(tmp_path / "thrifty"), True, at)[0]
        thrifty |= found
    assert thrifty.keys() == losses.keys()
    for step, loss in losses.items():
        assert math.isclose(loss, thrifty[step], rel_tol=1e-9), step
    for key, value in state.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-7, atol=1e-9)
    assert (tmp_path / "thrifty" / BEST).exists()
