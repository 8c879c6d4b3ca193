"""What is within a backbone, whoever wrote it: a transformer's blocks, tokens and attention, a network's feature maps, the order of its layers.

B images, P tokens before the patches, L patches, D features, A heads, h x w a grid
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from ..methods._base import Method

# px, sides of the empty picture that grids are measured on: a grid that follows the picture is three times as wide as high
PROBE = (128, 384)
# what a network raises that cannot compute on so small a picture
FAILURES = (RuntimeError, ValueError, AssertionError, IndexError, ZeroDivisionError)


@dataclass(frozen=True)
class Transformer:
    """A network's transformer. The output of `norm` are its tokens (B, P+L, D)."""

    net: nn.Module
    blocks: list[nn.Module]
    norm: nn.Module
    prefix: int  # P; the class token is the first, where there is one
    patch: int

    def grid(self, image: Tensor) -> tuple[int, int]:
        """h, w of the patches of images (B, C, H, W)."""
        return image.shape[-2] // self.patch, image.shape[-1] // self.patch


def transformer_of(net: nn.Module) -> Transformer | None:
    """The transformer that a network is, or that is within it; None for others."""
    return next((found for inner in net.modules() if (found := _transformer(inner)) is not None), None)


def transformers_in(module: nn.Module) -> list[Transformer]:
    """Of a method: those of its networks."""
    return [found for net in networks_in(module).values() if (found := transformer_of(net)) is not None]


def networks_in(module: nn.Module) -> dict[str, nn.Module]:
    """Of a method: by name the networks that have `out_dim`, without what is within them."""
    found: dict[str, nn.Module] = {}
    for name, net in module.named_modules():
        if (
            name
            and hasattr(net, "out_dim")
            and not isinstance(net, Method)
            and not any(name.startswith(f"{outer}.") for outer in found)
        ):
            found[name] = net
    return found


def _transformer(net: nn.Module) -> Transformer | None:
    """Built-in ViTs are torchvision's; others are known by how timm's name their parts."""
    any_net: Any = net
    if isinstance(net, TorchvisionViT):
        return Transformer(
            net, list(any_net.encoder.layers), any_net.encoder.ln, getattr(net, "num_prefix_tokens", 1), net.patch_size
        )
    blocks, norm = getattr(net, "blocks", None), getattr(net, "norm", None)
    patch = getattr(net, "patch_size", None) or getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)) or not isinstance(norm, nn.Module) or patch is None:
        return None
    sides = set(patch) if isinstance(patch, (tuple, list)) else {patch}
    if len(sides) > 1:
        return None
    return Transformer(net, list(blocks), norm, getattr(net, "num_prefix_tokens", 1), sides.pop())


# ---------------------------------------------------------------- attention


def attention_in(block: nn.Module) -> nn.Module | None:
    """A block's attention: its only nn.MultiheadAttention, or timm's with `qkv`. None where there is neither."""
    found = [layer for layer in block.modules() if isinstance(layer, nn.MultiheadAttention)]
    if not found:
        found = [layer for layer in block.modules() if _like_timm(layer)]
    return found[0] if len(found) == 1 else None


def _like_timm(layer: nn.Module) -> bool:
    plain = isinstance(getattr(layer, "qkv", None), nn.Linear) and isinstance(getattr(layer, "num_heads", None), int)
    return plain and not hasattr(layer, "relative_position_bias_table") and type(layer).__name__ == "Attention"


def attention(layer: Any, x: Tensor) -> Tensor:
    """(B, A, P+L, P+L): whom the tokens x (B, P+L, D), as the layer was given them, look at."""
    if isinstance(layer, nn.MultiheadAttention):
        x = x if layer.batch_first else x.transpose(0, 1)
        return layer(x, x, x, need_weights=True, average_attn_weights=False)[1]
    q, k, _ = layer.qkv(x).unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, A, P+L, d) each
    q, k = (getattr(layer, name, nn.Identity())(each) for name, each in (("q_norm", q), ("k_norm", k)))
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)


# ---------------------------------------------------------------- feature maps


@dataclass(frozen=True)
class Stage:
    """The last feature map of its size: the module that puts it out, its channels, and pixels of the image per step of its grid."""

    module: str
    channels: int
    stride: int
    last: bool = False  # whether channels come last, as (B, h, w, D)


def parts(net: nn.Module, prefix: str = "") -> Iterator[str]:
    """The names of a network's own modules and of those within nn.Sequential: the steps that an image goes through."""
    for name, child in net.named_children():
        yield f"{prefix}{name}"
        if isinstance(child, nn.Sequential):
            yield from parts(child, f"{prefix}{name}.")


@torch.no_grad()
def stages(net: nn.Module) -> list[Stage]:
    """The feature maps of a network, the finest first, one of each stride of up to 64 px, measured on an empty picture.

    Raises whatever the network does where it takes no picture of other sides than it was built for.
    """
    found: dict[int, Stage] = {}
    names = {net.get_submodule(name): name for name in parts(net)}
    weight = next(net.parameters())
    channels = next((layer.in_channels for layer in net.modules() if isinstance(layer, nn.Conv2d)), 3)

    def see(module: nn.Module, given: Any, output: Any) -> None:
        stage = _stage(names[module], output)
        if stage is not None and stage.stride >= max(found, default=1):
            found[stage.stride] = stage

    hooks = [module.register_forward_hook(see) for module in names]
    mode = net.training
    try:
        net.eval()(torch.zeros(1, channels, *PROBE, device=weight.device, dtype=weight.dtype))
    finally:
        net.train(mode)
        for hook in hooks:
            hook.remove()
    return list(found.values())


def _stage(name: str, output: Any) -> Stage | None:
    if not isinstance(output, Tensor) or output.ndim != 4:
        return None
    for last, cells in ((False, output.shape[2:]), (True, output.shape[1:3])):
        stride = 2 ** round(math.log2(PROBE[0] / max(cells[0], 1)))
        fits = all(abs(side - stride * count) <= 1.5 * stride for side, count in zip(PROBE, cells, strict=True))
        if fits and 1 <= stride <= 64:
            return Stage(name, output.shape[3 if last else 1], int(stride), last)
    return None


def as_map(output: Tensor, last: bool) -> Tensor:
    """(B, D, h, w)"""
    return output.permute(0, 3, 1, 2) if last else output


class Reading:
    """Within it, what a network held last before its one vector, as tokens (B, T, D): a transformer's patches, else cells of its last feature map."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.tokens, self.closed = net, None, False
        self.hooks: list[Any] = []
        found = transformer_of(net)
        self.norm, self.prefix = (found.norm, found.prefix) if found else (None, 0)

    def __enter__(self) -> Reading:
        read = [self.norm] if self.norm is not None else [self.net.get_submodule(name) for name in parts(self.net)]
        self.hooks = [
            self.net.register_forward_pre_hook(self._begin),
            *(module.register_forward_hook(self._see) for module in read),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _begin(self, net: nn.Module, given: tuple[Any, ...]) -> None:
        self.closed = self.norm is None and given[0].ndim != 4

    def _see(self, module: nn.Module, given: Any, output: Any) -> None:
        if self.closed or not isinstance(output, Tensor):
            return
        if output.ndim == 4 and output.shape[2:].numel() == 1 and "Adaptive" in type(module).__name__:
            self.closed = True  # what comes after pooling is of the whole image
        elif output.ndim == 3:
            self.tokens = output[:, self.prefix :]
        elif output.ndim == 4:
            last = output.shape[1] == output.shape[2] != output.shape[3]
            self.tokens = as_map(output, last).flatten(2).transpose(1, 2)


# ---------------------------------------------------------------- the order of layers


def depths(net: nn.Module) -> dict[str, int] | None:
    """Of each parameter the number of its layer: 0 before the first block, then 1, 2, ..., and last what comes after the blocks.

    A transformer's as BEiT's and MAE's have it; other networks of timm say it themselves (group_matcher). None where a network has no blocks.
    """
    found = transformer_of(net)
    if found is None and hasattr(net, "group_matcher"):
        from timm.models import group_parameters

        return dict(group_parameters(net, net.group_matcher(coarse=False), reverse=True))  # pyright: ignore
    if found is None:
        return None
    prefixes = {block: i + 1 for i, block in enumerate(found.blocks)} | {found.norm: len(found.blocks) + 1}
    layers = {name: prefixes[module] for name, module in net.named_modules() if module in prefixes}
    last = re.compile(r"(.*\.)?(head|heads|fc_norm)\.")
    return {
        name: next(
            (layer for place, layer in layers.items() if name.startswith(f"{place}.")),
            len(found.blocks) + 1 if last.match(name) else 0,
        )
        for name, _ in net.named_parameters()
    }


def undecayed(module: nn.Module) -> set[int]:
    """The ids of parameters that networks within `module` name in no_weight_decay(), such as position embeddings."""
    found: set[int] = set()
    for net in module.modules():
        named = getattr(net, "no_weight_decay", None)
        if callable(named):
            names: Any = named()
            found |= {id(p) for name, p in net.named_parameters() if name in names}
    return found
