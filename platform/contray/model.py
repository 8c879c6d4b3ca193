"""From a config to the method's module, and from uint8 pixels to its inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods._base import Method

from . import backbones
from .chunks import normed, plan
from .config import RunConfig
from .errors import ConfigError
from .registry import load_method
from .seeds import seeded
from .vit import SHAPES

DTYPES = {"bf16": torch.float32, "fp32": torch.float32, "fp64": torch.float64}  # of weights and inputs


def build(config: RunConfig, samples: int) -> Method:
    """The configured method, untrained, for a training set of `samples`: the same weights on every machine and rank."""
    file = load_method(config.method.name)
    with seeded(config.seed, "method"):
        method = file.method(config.method, backbones.factory(config), samples)
    method = method.to(DTYPES[config.train.precision])
    for buffer, values in ((method.pixel_mean, config.augment.mean), (method.pixel_std, config.augment.std)):
        buffer.copy_(buffer.new_tensor(values).view_as(buffer))
    return method


def check(config: RunConfig, samples: int) -> None:
    """Refuse what cannot work on a training set of `samples`: batch, chunks, queue and whatever else the method declares."""
    batch = config.train.batch_size
    if samples < batch:
        raise ConfigError(
            "train.batch_size",
            f"got {batch}, but {config.data.source} has {samples} training samples and every global batch is full",
        )
    method = load_method(config.method.name).method
    if method.needs_vit(config.method) and config.backbone.name not in SHAPES:
        raise ConfigError(
            "backbone.name",
            f"got {config.backbone.name}, but {config.method.name} so configured needs a transformer: {', '.join(SHAPES)}",
        )
    try:
        method.check(config.method, samples=samples, batch=batch, views=config.views)
    except ValueError as error:
        key, _, problem = str(error).partition(": ")
        raise ConfigError(f"method.{key}", problem) from None
    least, most = config.scale.workers
    try:
        for world in range(max(least, 1), max(most, 1) + 1):
            plan(batch, world, config.train.norm_groups, config.scale.max_batch_per_worker)
    except ConfigError:
        if normed(build(config, samples)):  # built only where it matters
            raise


def device_of(config: RunConfig) -> torch.device:
    """Where to train. Raises ConfigError when a GPU is asked for and there is none."""
    if config.train.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device", "got cuda, but torch finds no GPU here")
    return torch.device("cuda" if config.train.device != "cpu" and torch.cuda.is_available() else "cpu")


def normaliser(config: RunConfig, device: torch.device) -> Callable[[Tensor], Tensor]:
    """uint8 (B, H, W, C) on any device -> normalised (B, C, H, W) on `device`: the bytes go over, the rest happens there.

    Arrays (floats) take the precision of the weights; tokens (integers) stay as they are.
    """
    dtype = DTYPES[config.train.precision]
    mean = torch.tensor(config.augment.mean, dtype=dtype, device=device).mul(255).reshape(1, -1, 1, 1)
    scale = torch.tensor(config.augment.std, dtype=dtype, device=device).mul(255).reciprocal().reshape(1, -1, 1, 1)
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format

    def normalise(pixels: Tensor) -> Tensor:
        moved = pixels.to(device, non_blocking=True)
        if moved.dtype != torch.uint8:
            return moved.to(dtype) if moved.is_floating_point() else moved
        batch = moved.flatten(0, -4) if moved.ndim > 4 else moved  # patches: (B, P, H, W, C)
        images = batch.permute(0, 3, 1, 2).to(dtype).sub_(mean).mul_(scale).contiguous(memory_format=layout)
        return images.unflatten(0, moved.shape[:-3]) if moved.ndim > 4 else images

    return normalise


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """bf16 autocast where the config asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16")
