"""Backbones by name: built-in ones, any network of timm and torchvision, one's own by path or entry point. And what a backbone offers.

A backbone is a module (B, C, H, W) -> (B, D) with the attribute `out_dim` = D, built for C channels and the side of the largest view.
Whoever builds it has to offer no more than that. What else there is, is found where the network has it:

- a transformer: `blocks` (each (B, P+L, D) -> the same), `norm` (the last one), `patch_size` and `num_prefix_tokens` (P tokens, the class
  token first, before L patches row by row; 1 where it is not said). For last_n, layer decay, tokens, attention and dense evaluation; see
  anatomy.py, which knows torchvision's and timm's by this too.
- attention maps: its blocks have one nn.MultiheadAttention each, or timm's `attn` with `qkv`.
- feature maps: every module of the network's own or within nn.Sequential that puts out (B, D, h, w); see `anatomy.stages`.
- patches in reach, for methods that mask or mix them: `patches(x)` -> (B, L, D), `tokens(patches)` -> (B, P+L', D) of any number of
  them, `positions(rows, columns)` -> (1, L, D), `patch_size` and `image_size`. Methods that replace patches by a mask token ask for
  `project(x)` -> (B, L, D) besides, `patches` before positions are added, and those that predict what is within for
  `inner(patches, count)` -> (B, P+L', D) of each of the last blocks (see `Method.reach`).
- its last feature map in reach, for methods that compare places: `feature_map(x)` -> (B, D) features and (B, M, h, w), and `map_dim` = M. Built-in
  networks have it, others are given it where one is found (maps.py).
- `no_weight_decay()` -> names of parameters that do not decay, 1-D ones aside.

Batch norm, dropout and stochastic depth of what is not built in are replaced by layers under our laws (lawful.py), whose names of
parameters are the same; what breaks the laws otherwise is refused when a run is checked.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..config import RunConfig
from ..config.registry import find, load_method, told
from ..config.sections import BACKBONES, LIBRARIES
from ..errors import ConfigError, UserError
from ..methods._base import View
from . import libraries
from .anatomy import FAILURES
from .frozen import frozen_of
from .lawful import broken, lawful
from .maps import with_map
from .resnet import AlexNet, resnet, with_norm
from .seeds import seeded
from .vit import SHAPES, VisionTransformer

if TYPE_CHECKING:
    from .weights import Given


class Factory:
    """A function that builds the configured backbone, the same weights at each call: (B, channels, H, W) -> (B, out_dim).

    channels: by default those of the images, 3 or data.channels. start: the weights that it begins with, else drawn.
    frozen: encoders that the method learns from, by the fields of its config that name them.
    A built-in ViT learns the positions of the largest view's patches and interpolates them for others.
    """

    def __init__(self, config: RunConfig, start: Given | None = None) -> None:
        self.config, self.start = config, start
        self.frozen = frozen_of(config)

    def __call__(self, channels: int = 0) -> nn.Module:
        config, name, side, channels = (
            self.config,
            self.config.backbone.name,
            largest_side(self.config),
            channels or self.config.channels,
        )
        with seeded(config.seed, "backbone"):
            net = _built_in(config, channels, side) if name in BACKBONES else _foreign(config, channels, side)
        if self.start is not None:
            net.load_state_dict(self.start.state_for(net, name)[0])
        return net


def factory(config: RunConfig, start: Given | None = None) -> Factory:
    """The configured backbone's Factory."""
    return Factory(config, start)


def image_side(view: View) -> int:
    """Side in px of what the backbone is given of this view; 0 where that is no image."""
    return {"image": view.size, "patches": view.grid[1]}.get(view.kind, 0)


def largest_side(config: RunConfig) -> int:
    """Side in px of the largest image that the backbone is given."""
    return max(image_side(view) for view in config.views.values())


def sketch(config: RunConfig) -> nn.Module:
    """The backbone without its numbers, on torch's meta device, or with them where it asks for some while it is built."""
    try:
        with torch.device("meta"):
            return factory(config)()
    except (RuntimeError, NotImplementedError, UserError):
        return factory(config)()


def lacking(config: RunConfig, reach: tuple[str, ...]) -> list[str]:
    """What the backbone has not of the patches in reach."""
    net = sketch(config)
    return [name for name in reach if not hasattr(net, name)]


def lacks_map(config: RunConfig) -> bool:
    """Whether the backbone has no feature map in reach."""
    return not hasattr(sketch(config), "feature_map")


def check_output(config: RunConfig) -> None:
    """Try a network of one's own file on noise: what it gives (`_refuse_output`), and what goes wrong in it, is refused. Raises ConfigError, UserError."""
    name, side = config.backbone.name, largest_side(config)
    if name in BACKBONES or name.startswith(LIBRARIES) or not side:
        return
    net = factory(config)().eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            net(torch.rand(2, config.channels, side, side))
    except UserError:
        raise
    except FAILURES:
        return  # which is said of the view
    except Exception as error:
        raise ConfigError("backbone.name", f"got {name}: {told(error, find('backbone', name).__file__)}") from error


def check_laws(config: RunConfig) -> None:
    """Refuse a network of others that breaks the laws, tried on a few rows of noise. Raises ConfigError."""
    sides = [side for view in config.views.values() if (side := image_side(view))]
    if config.backbone.name in BACKBONES or not sides:
        return
    problem = broken(factory(config)(), config.channels, min(sides))
    if problem:
        raise ConfigError("backbone.name", f"got {config.backbone.name}: {problem}")


def _built_in(config: RunConfig, channels: int, side: int) -> nn.Module:
    if config.backbone.name in SHAPES:
        net: nn.Module = VisionTransformer(config.backbone, side)
    else:
        plain = AlexNet() if config.backbone.name == "alexnet" else resnet(config.backbone)
        net = with_norm(plain, config.backbone.norm)
    libraries.with_channels(net, channels)
    return net


def _foreign(config: RunConfig, channels: int, side: int) -> nn.Module:
    name = config.backbone.name
    if name.startswith(LIBRARIES):
        net = libraries.build(config, channels, side)
    else:
        file = find("backbone", name)
        try:
            net = file.build(own_config(config), channels, side)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"backbone {name}: {told(error, file.__file__)}") from error
        if not isinstance(net, nn.Module) or not isinstance(getattr(net, "out_dim", None), int) or net.out_dim < 1:  # pyright: ignore[reportOperatorIssue]
            raise UserError(f"backbone {name}: build must return an nn.Module with out_dim, the number of its features")
        if any(is_lazy(x) for x in (*net.parameters(), *net.buffers())):
            raise UserError(f"backbone {name}: a Lazy layer has no weights yet; give it its size")
    net.register_forward_hook(partial(_refuse_output, name))
    try:
        net = lawful(net)
    except ValueError as error:
        raise ConfigError("backbone.name", f"got {name}: {error}") from None
    return with_map(net) if load_method(config.method.name).method.needs_map(config.method) else net


def _refuse_output(name: str, net: Any, given: Any, output: Any) -> None:
    """A hook: raises ConfigError where a network gives something else than (B, out_dim)."""
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    wanted = len(given[0]), net.out_dim
    if found != wanted:
        raise ConfigError(
            "backbone.name", f"got {name}: it gives {found}, must give (B, out_dim), here {wanted}; mend it or its options"
        )


def own_config(config: RunConfig) -> Any:
    """The backbone's own keys, backbone.NAME.*, or backbone.* where its file declares none."""
    return next((part for prefix, part in config.parts.items() if prefix.startswith("backbone.")), config.backbone)
