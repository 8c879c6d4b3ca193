"""From a config to the method's module, and from pixels to its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..config.registry import load_method
from ..data.recipe import uncovered
from ..errors import ConfigError, UserError
from ..methods._base import Method
from . import backbones, laws
from .attention import attend_in_fp32
from .chunks import normed, plan
from .hardware import quick_bf16
from .seeds import seeded

if TYPE_CHECKING:
    from .weights import Given

DTYPES = {"auto": torch.float32, "bf16": torch.float32, "fp32": torch.float32, "fp64": torch.float64}  # of weights and inputs
_MANY = 2**20  # samples, where their number does not matter
HARDWARE = ("train.precision", "train.channels_last", "data.augment_on")  # keys that may be left to it


def build(config: RunConfig, samples: int, start: Given | None = None) -> Method:
    """The configured method, untrained, for a training set of `samples`: the same weights on every machine and rank.

    start: the weights that each of its backbones begins with, as do the copies that it makes of them.
    """
    with seeded(config.seed, "method"):
        method = _made(config, backbones.factory(config, start), samples)
    method = method.to(DTYPES[config.train.precision])
    if config.augment.mean and config.augment.std:  # else they are to be measured before anything is normalised
        method.pixel_mean, method.pixel_std = (
            method.pixel_mean.new_tensor(values).view(-1, 1, 1) for values in (config.augment.mean, config.augment.std)
        )
    return method


def _made(config: RunConfig, backbone: backbones.Factory, samples: int) -> Method:
    """Raises ConfigError where the method says of one of its keys, as `Method.check` does, that it does not suit the backbone."""
    try:
        return load_method(config.method.name).method(config.method, backbone, samples)
    except ValueError as error:
        key, _, problem = str(error).partition(": ")
        if not problem or not hasattr(config.method, key):
            raise
        raise ConfigError(f"method.{key}", problem) from None


_SKETCHES: dict[str, Method] = {}


def shape_key(config: RunConfig) -> str:
    """Of the method, the backbone and the views: of what layers and shapes depend on."""
    return f"{config.digest('data', 'augment', 'optim', 'train', 'scale', 'eval', 'track', 'seed')}-{config.channels}"


def sketch(config: RunConfig) -> Method:
    """The method without its numbers, on torch's meta device: for its layers and shapes, in milliseconds.

    A user's method that asks for numbers while it is built is built with them.
    """
    key = shape_key(config)
    if key not in _SKETCHES:
        _SKETCHES.clear()  # one is enough: a run asks for its own, a sweep for one after the other
        try:
            with torch.device("meta"):
                _SKETCHES[key] = _made(config, backbones.factory(config), _MANY)
        except (RuntimeError, NotImplementedError, UserError):
            _SKETCHES[key] = build(config, config.train.batch_size)
    return _SKETCHES[key]


def check(config: RunConfig, samples: int) -> None:
    """Refuse what cannot work on a training set of `samples`: batch, chunks, queue and whatever else the method declares."""
    laws.check(config, samples)
    from .shapes import check as check_shapes  # which builds the method by this module

    check_shapes(config)
    if config.scale.activation_checkpointing:
        from .recompute import check as check_recompute

        check_recompute(config)
    batch, (least, most) = config.train.batch_size, config.scale.workers
    try:
        for world in range(max(least, 1), max(most, 1) + 1):
            plan(batch, world, config.train.norm_groups, config.scale.max_batch_per_worker)
    except ConfigError:
        if normed(build(config, samples)):  # built only where it matters
            raise


# ---------------------------------------------------------------- what the hardware decides


def open_keys(config: RunConfig) -> list[str]:
    """The keys that are left to the hardware still."""
    flat = config.flat()
    return [key for key in HARDWARE if flat[key] == "auto"]


def settled(config: RunConfig, kind: str, bf16: bool | None = None) -> RunConfig:
    """The config without "auto", for a device of this kind ("cpu", "cuda"); `bf16`: whether it is quick there, asked of this machine by default.

    Raises ConfigError for a layout in which torch would abort the process, and for views that the device cannot make.
    """
    keys = open_keys(config)
    crash = _crashes(config) if kind == "cpu" and config.train.channels_last != "false" else ""
    if config.train.channels_last == "true" and crash:
        raise ConfigError(
            "train.channels_last",
            f"got true, in which layout torch's CPU code aborts the process at {crash}; leave it at auto, or give false",
        )
    rest = uncovered(config.views, config.data.channels)
    if config.data.augment_on == "device" and rest:
        raise ConfigError("data.augment_on", f"got device, where {rest} cannot be made; give auto or cpu")
    if not keys:
        return config
    bf16 = quick_bf16(kind)[0] if bf16 is None else bf16
    values = {
        "train.precision": "bf16" if bf16 else "fp32",
        "train.channels_last": "true" if _convolves(config) and not crash else "false",
        "data.augment_on": "device" if kind == "cuda" and not rest else "cpu",
    }
    known = [*config.train.settled, *keys]
    return config.replace({**{key: values[key] for key in keys}, "train.settled": known})


def channels_last(config: RunConfig) -> bool:
    """Whether images and convolutions have their channels last in memory."""
    return config.train.channels_last == "true"


def _crashes(config: RunConfig) -> str:
    """The layer at which torch's CPU code corrupts the heap with channels last, in words; empty: none.

    The backward pass of 1x1 convolutions with a stride over fewer than 16 channels does (torch 2.14, in fp32 and bf16; found by trying kernels
    of 1 to 11, strides of 1 to 4 and 3 to 130 channels, each in a process of its own).
    """
    for name, layer in sketch(config).named_modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels < 16:
            return f"{name} (a 1x1 convolution of stride {max(layer.stride)} over {layer.in_channels} channels)"
    return ""


def _convolves(config: RunConfig) -> bool:
    """Whether the network has convolutions that overlap: a transformer's patches do not, and gain nothing by another layout."""
    layers = [layer for layer in sketch(config).modules() if isinstance(layer, nn.Conv2d)]
    return any(layer.kernel_size[0] > layer.stride[0] for layer in layers)


# ---------------------------------------------------------------- devices and inputs


def device_of(config: RunConfig) -> torch.device:
    """Where to train. Raises ConfigError when a GPU is asked for and there is none."""
    if config.train.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device", "got cuda, but torch finds no GPU here")
    return torch.device("cuda" if config.train.device != "cpu" and torch.cuda.is_available() else "cpu")


def normaliser(config: RunConfig, device: torch.device) -> Callable[[Tensor], Tensor]:
    """uint8, or float32 in [0, 1], (B, H, W, C) on any device -> normalised (B, C, H, W) on `device`: pixels go over as they are.

    Arrays (floats of three axes) take the precision of the weights; tokens (integers) stay as they are. Raises ConfigError where mean or
    deviation are still to be measured.
    """
    dtype = DTYPES[config.train.precision]
    for key in ("mean", "std"):
        if not getattr(config.augment, key):
            raise ConfigError(f"augment.{key}", "is measured when a run starts; a run's config.yaml has its numbers: give them")
    mean, std = (
        torch.tensor(x, dtype=dtype, device=device).reshape(1, -1, 1, 1) for x in (config.augment.mean, config.augment.std)
    )
    bytes_mean, bytes_scale, scale = mean.mul(255), std.mul(255).reciprocal(), std.reciprocal()
    layout = torch.channels_last if channels_last(config) else torch.contiguous_format

    def normalise(pixels: Tensor) -> Tensor:
        moved = pixels.to(device, non_blocking=True)
        whole = moved.dtype == torch.uint8
        if not whole and (moved.ndim < 4 or not moved.is_floating_point()):
            return moved.to(dtype) if moved.is_floating_point() else moved
        batch = moved.flatten(0, -4) if moved.ndim > 4 else moved  # patches: (B, P, H, W, C)
        values = batch.permute(0, 3, 1, 2).to(dtype)
        values = values.sub_(bytes_mean).mul_(bytes_scale) if whole else values.sub(mean).mul_(scale)
        images = values.contiguous(memory_format=layout)
        return images.unflatten(0, moved.shape[:-3]) if moved.ndim > 4 else images

    return normalise


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """bf16 autocast where the config asks for it; attention on a CPU in fp32."""
    precision = config.train.precision
    enabled = precision == "bf16" or (precision == "auto" and quick_bf16(device.type)[0])
    if enabled and device.type == "cpu":
        attend_in_fp32()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
