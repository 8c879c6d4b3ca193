"""How others name the tensors of the networks that contray has: torchvision, timm and the official releases.

A ViT of ours has torchvision's names. timm's differ in names alone: both pack q, k and v of all heads as rows [q; k; v] of one matrix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..model.resnet import RESNETS
from ..model.vit import SHAPES

State = dict[str, Tensor]

TIMM = (  # (timm, torchvision), the starts of names; of a block what follows `blocks.N.`
    ("cls_token", "class_token"),  # (1, 1, D)
    ("reg_token", "registers"),  # (1, R, D)
    ("pos_embed", "encoder.pos_embedding"),  # (1, 1 + L, D), the class token's first; where timm has registers, (1, L, D)
    ("patch_embed.proj.", "conv_proj."),  # (D, 3, P, P), (D,)
    ("norm.", "encoder.ln."),  # (D,)
)
TIMM_BLOCK = (
    ("norm1.", "ln_1."),
    ("attn.qkv.", "self_attention.in_proj_"),  # (3D, D), (3D,)
    ("attn.proj.", "self_attention.out_proj."),  # (D, D), (D,)
    ("ls1.gamma", "dropout.scale"),  # (D,); torchvision has no layer scale, ours is besides
    ("norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.0."),  # (4D, D), (4D,)
    ("mlp.fc2.", "mlp.3."),  # (D, 4D), (D,)
    ("ls2.gamma", "mlp.4.scale"),
)
BLOCK, TIMM_PREFIX = "encoder.layers.encoder_layer_", "blocks."
STEMS = ("conv1.weight", "conv_proj.weight", "patch_embed.proj.weight")  # each network has one of them


@dataclass(frozen=True)
class Layout:
    """Where a release keeps its backbone. within: keys that may hold the state dict; prefixes: of the backbone's tensors, the first that fits;
    heads: tensors under the prefix that are no part of the backbone.
    """

    within: tuple[str, ...]
    prefixes: tuple[str, ...]
    heads: str
    fixed_positions: bool = False


LAYOUTS = {
    "torchvision": Layout(("state_dict", "model"), ("module.", ""), r"(fc|heads)\."),
    "timm": Layout(("state_dict", "model"), ("module.", ""), r"(fc|head)\."),
    "moco": Layout(("state_dict",), ("module.encoder_q.", "encoder_q."), r"fc\."),
    "simsiam": Layout(("state_dict",), ("module.encoder.", "encoder."), r"fc\."),
    "barlow_twins": Layout(("model",), ("module.backbone.", "backbone.", ""), r"fc\."),
    "dino": Layout(("teacher",), ("module.backbone.", "backbone.", ""), r"(fc|head)\."),
    "mae": Layout(("model",), ("module.", ""), r"decoder_|mask_token$|head\.", fixed_positions=True),
    "moco_v3": Layout(("state_dict",), ("module.base_encoder.", "base_encoder."), r"(fc|head)\.", fixed_positions=True),
}


def select(raw: Mapping[str, Any], layout: Layout) -> State:
    """The backbone's tensors under their bare names; empty where the layout is another."""
    state = next((raw[key] for key in layout.within if isinstance(raw.get(key), Mapping)), raw)
    for prefix in layout.prefixes:
        if any(isinstance(state.get(prefix + stem), Tensor) for stem in STEMS):
            bare = {name[len(prefix) :]: value for name, value in state.items() if str(name).startswith(prefix)}
            return {name: value for name, value in bare.items() if isinstance(value, Tensor) and not re.match(layout.heads, name)}
    return {}


def select_named(raw: Mapping[str, Any], layout: Layout, wanted: set[str], classifiers: tuple[str, ...]) -> State:
    """The tensors of a network whose names are known, under these; without its classifiers."""
    state = next((raw[key] for key in layout.within if isinstance(raw.get(key), Mapping)), raw)
    prefix = next((prefix for prefix in layout.prefixes if any(prefix + name in state for name in wanted)), "")
    bare = {str(name).removeprefix(prefix): value for name, value in state.items() if str(name).startswith(prefix)}
    left = tuple(f"{name}." for name in classifiers)
    return {
        name: value for name, value in bare.items() if isinstance(value, Tensor) and (name in wanted or not name.startswith(left))
    }


def from_timm(name: str) -> str:
    """A ViT tensor's name in torchvision, of its name in timm."""
    if name.startswith(TIMM_PREFIX):
        number, _, rest = name[len(TIMM_PREFIX) :].partition(".")
        return f"{BLOCK}{number}.{_renamed(rest, TIMM_BLOCK)}"
    return _renamed(name, TIMM)


def to_timm(name: str) -> str:
    """The inverse of `from_timm`."""
    if name.startswith(BLOCK):
        number, _, rest = name[len(BLOCK) :].partition(".")
        return f"{TIMM_PREFIX}{number}.{_renamed(rest, [(theirs, ours) for ours, theirs in TIMM_BLOCK])}"
    return _renamed(name, [(theirs, ours) for ours, theirs in TIMM])


def _renamed(name: str, pairs: Any) -> str:
    return next((after + name[len(before) :] for before, after in pairs if name.startswith(before)), name)


def torchvision_names(state: State) -> State:
    """The same tensors under the names of contray's backbones. torchvision's ViTs of before 0.13 name the layers of an MLP."""
    if "patch_embed.proj.weight" in state:
        positions = state.get("pos_embed")
        if positions is not None and math.isqrt(positions.shape[-2]) ** 2 == positions.shape[-2]:  # none of the class token
            state = {**state, "pos_embed": F.pad(positions, (0, 0, 1, 0))}
        return {from_timm(name): value for name, value in state.items()}
    old = {".mlp.linear_1.": ".mlp.0.", ".mlp.linear_2.": ".mlp.3."}
    return {re.sub(r"\.mlp\.linear_[12]\.", lambda found: old[found[0]], name): value for name, value in state.items()}


def architecture(state: State) -> dict[str, Any]:
    """`backbone.*` settings and `side` (px, ViTs), as the shapes tell them. Raises UserError where no backbone of contray has such shapes.

    state: under torchvision's names. The number of a ViT's heads is in no shape.
    """
    return _vit(state) if "conv_proj.weight" in state else _resnet(state)


def _resnet(state: State) -> dict[str, Any]:
    conv = state["conv1.weight"]
    places = [re.match(r"layer([1-4])\.(\d+)\.", name) for name in state]
    depths = [max([int(at[2]) + 1 for at in places if at and at[1] == stage], default=0) for stage in "1234"]
    block = "Bottleneck" if "layer1.0.conv3.weight" in state else "BasicBlock"
    name = next((name for name, shape in RESNETS.items() if shape == (block, depths)), "")
    stem = {"7x7": "imagenet", "3x3": "cifar"}.get("x".join(map(str, conv.shape[2:])), "")
    if not name or not stem:
        raise UserError(
            f"another architecture: conv1 of shape {_shape(conv)} and stages of {depths} {block}s, which is none of {', '.join(RESNETS)}"
        )
    return {"backbone.name": name, "backbone.stem": stem, "backbone.width": conv.shape[0], **_channels(conv)}


def _vit(state: State) -> dict[str, Any]:
    lacking = [name for name in ("class_token", "encoder.pos_embedding") if name not in state]
    if lacking:
        raise UserError(f"another architecture: a ViT without {' and '.join(lacking)} (timm: {', '.join(map(to_timm, lacking))})")
    projection, positions = state["conv_proj.weight"], state["encoder.pos_embedding"]
    width, patch, rows = projection.shape[0], projection.shape[-1], math.isqrt(max(positions.shape[-2] - 1, 0))
    blocks = {name[len(BLOCK) :].partition(".")[0] for name in state if name.startswith(BLOCK)}
    name = next((name for name, (depth, _, own) in SHAPES.items() if (depth, own or width) == (len(blocks), width)), "")
    if not name or rows**2 + 1 != positions.shape[-2]:
        raise UserError(
            f"another architecture: a ViT of {len(blocks)} blocks, width {width} and positions of shape {_shape(positions)}, "
            f"which is none of {', '.join(SHAPES)} on a square grid"
        )
    scaled = 1.0 if f"{BLOCK}0.dropout.scale" in state else 0.0
    registers = {"backbone.registers": state["registers"].shape[-2]} if "registers" in state else {}
    return {
        "backbone.name": name, "backbone.width": width, "backbone.patch": patch, "backbone.layer_scale": scaled, "side": rows * patch,
        **registers, **_channels(projection),
    }  # fmt: skip


def _channels(weight: Tensor) -> dict[str, Any]:
    """Of images that are not RGB."""
    return {"data.channels": weight.shape[1]} if weight.shape[1] != 3 else {}


def spread(state: State, wanted: Mapping[str, Tensor]) -> State:
    """The weights of a network of RGB for other channels: those of the first layer are their mean over RGB in each, in all as large a sum."""
    found = dict(state)
    for name, tensor in state.items():
        shape = wanted[name].shape if name in wanted else tensor.shape
        if tensor.ndim == 4 and tensor.shape[1] == 3 != shape[1] and tensor.shape == (shape[0], 3, *shape[2:]):
            found[name] = (tensor.mean(1, keepdim=True) * (3 / shape[1])).expand(shape).clone()
    return found


def misfits(given: State, wanted: Mapping[str, Tensor]) -> str:
    """What keeps `given` from being loaded as `wanted`: tensors that are missing, too many or of another shape; empty where nothing does."""
    rename = to_timm if "conv_proj.weight" in wanted else str
    other = [
        f"{rename(name)} is {_shape(given[name])}, not {_shape(wanted[name])}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    found = {
        "missing": [rename(name) for name in wanted if name not in given],
        "too many": [rename(name) for name in given if name not in wanted],
        "of another shape": other,
    }
    return "; ".join(
        f"{problem}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for problem, names in found.items()
        if names
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
