"""The engine's step in small, on noise: represent and loss, summed gradients, after_backward, optimiser, EMA, update. In double precision it is exact.

SGD moves the weights, since an adaptive rate would hide gradients that are off by a factor; 13 rows are 7 + 6 on two ranks and 5 + 4 + 4 on three.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from .. import model
from ..config import RunConfig
from ..config.registry import load_method
from ..data.views import Fetch, Pipeline
from ..methods._base import Batch, Clock, Method, View
from ..methods._ranks import shares
from ..model import backbones, optim
from ..model.chunks import divide
from ..model.gradients import Gradients
from ..training.step import forward_backward

SIZE, SAMPLES, GROUPS, STEPS = 13, 2000, 3, 3
SIDE = 32  # px of images, where a preset has larger ones
FILE_SIDE = 36  # px of the noise that views are drawn from
SGD = {"optim.name": "sgd", "optim.lr": 0.01, "optim.lr_scaling": "none", "optim.warmup_epochs": 0, "optim.clip": 0}


def small(
    name: str, preset: str, precision: str = "fp64", size: int = SIZE, groups: int = GROUPS, backbone: str = ""
) -> RunConfig:
    """A method's preset on a network of a few channels; `backbone` instead of the preset's own.

    A ViT of fewer than 16 features gives all rows nearly the same class token, and batch norm would blow the rounding up.
    """
    config = RunConfig.make(name, preset=preset)
    if not config.backbone.name.endswith(("_small", "_mini")) and not backbone:
        backbone = "vit_mini" if load_method(name).method.needs_vit(config.method) else "resnet_small"
    if backbone:
        sides = {
            f"views.{key}.size": SIDE
            for key, view in config.views.items()
            if backbones.image_side(view) > SIDE and view.kind == "image"
        }
        config = config.replace({"backbone.name": backbone, "backbone.stem": "cifar", "backbone.patch": 4, **sides})
    return config.replace(
        {
            "backbone.width": 16 if config.backbone.name == "vit_mini" else 4, "train.batch_size": size, "train.precision": precision,
            "train.norm_groups": groups, "train.channels_last": False, **SGD,
        }
    )  # fmt: skip


def batch_of(config: RunConfig, step: int, rank: int = 0, world: int = 1) -> Batch:
    """This rank's rows of the step's global batch: noise as uint8 pictures through the method's own views, as the loader gives them."""
    size = config.train.batch_size
    own = shares(size, world)[rank]
    pipeline = Pipeline(config.views, strength=0.0)
    rows = [pipeline(columns_of(config.views, 100 * step + slot), (0, step, slot)) for slot in own]
    slot = torch.arange(own.start, own.stop)
    index = (slot * 7 + step * size) % SAMPLES
    return Batch(inputs_of(config, rows), index, slot, size, seed=1, step=step, groups=config.train.norm_groups)


def inputs_of(config: RunConfig, rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """What the method is given of drawn views."""
    normalise = model.normaliser(config, torch.device("cpu"))
    return {key: normalise(torch.stack([torch.from_numpy(row[key]) for row in rows])) for key in rows[0]}


def evaluation_inputs(config: RunConfig, rows: int) -> dict[str, torch.Tensor]:
    """Noise, as `encode` is given it."""
    views = load_method(config.method.name).method.eval_views(config.views)
    return inputs_of(config, [Pipeline(views, 0.0)(columns_of(views, i), (0, 0, i)) for i in range(rows)])


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
            made[view.source] = rng.integers(0, 256, (FILE_SIDE, FILE_SIDE, 3), np.uint8)
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
    config: RunConfig,
    method: Method,
    optimizer: torch.optim.Optimizer,
    step: int,
    rank: int = 0,
    world: int = 1,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The metrics of the global batch and the summed gradients; represented in chunks where the config has a limit.

    between: called when the loss and its gradients are there, before anything moves.
    """
    batch, clock = batch_of(config, step, rank, world), clock_of(step)
    params = {name: p for name, p in method.named_parameters() if p.requires_grad}
    chunks = divide(method, batch.size, batch.groups, config.scale.max_batch_per_worker, world, rank)
    sums = Gradients(method)
    reps, out = forward_backward(config, method, batch, clock, chunks, sums)
    sums.close()
    between()
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in params.items()}
    values = torch.stack([value.detach().double() for value in out.values()])
    if world > 1:
        dist.all_reduce(values)
    method.after_backward(clock)
    optimizer.step()
    optimizer.zero_grad()
    optim.Average(method).move(clock)
    method.update(reps, batch, clock)
    return {"values": dict(zip(out, values, strict=True)), "gradients": gradients}


def some_steps(rank: int, world: int, config: RunConfig, steps: range = range(STEPS), state: Any = None) -> dict[str, Any]:
    """What came of the steps, from the start or from a state, and the states after each."""
    method = begun(config)
    optimizer = optim.build(config, method)
    if state is not None:
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    done, states = [], []
    for step in steps:
        done.append(one_step(config, method, optimizer, step, rank, world))
        states.append(copy.deepcopy({"method": method.state_dict(), "optimizer": optimizer.state_dict()}))
    kept = itertools.chain(method.named_parameters(), method.named_buffers())
    return {"steps": done, "states": states, "graphs": [name for name, value in kept if value.grad_fn is not None]}
