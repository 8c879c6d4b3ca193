"""How others name the tensors of the networks that contray has: torchvision, timm and the official releases.

A ViT of ours has torchvision's names. timm's differ in names alone: both pack q, k and v of all heads as rows [q; k; v] of one matrix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .resnet import RESNETS
from .vit import SHAPES

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
POSITIONS = ("pos_embed", "pos_embedding")  # how names of learned positions end
REGISTERS = ("registers", "reg_token", "register_tokens", "storage_tokens")
STEMS = ("conv1.weight", "conv_proj.weight", "patch_embed.proj.weight")  # each network has one of them
BEHIND = ("layer1.0.conv1.weight", "encoder.ln.weight", "norm.weight", "blocks.0.norm1.weight")  # and one of these


@dataclass(frozen=True)
class Layout:
    """Where a release keeps its backbone. within: keys that may hold the state dict; prefixes: of the backbone's tensors, the first that fits;
    heads: tensors under the prefix that are no part of the backbone; mark: a name that files of this layout alone hold; renamed: its own names as timm's.
    """

    within: tuple[str, ...]
    prefixes: tuple[str, ...]
    heads: str
    mark: str
    fixed_positions: bool = False
    renamed: Callable[[State], State] = dict


def _dinov2(state: State) -> State:
    """facebookresearch/dinov2 `models/vision_transformer.py`: blocks may stand in chunks (blocks.CHUNK.N), registers have no position, the class token has."""
    state = {
        re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
        .replace("mlp.w12.", "mlp.fc1.")
        .replace("mlp.w3.", "mlp.fc2."): value
        for name, value in state.items()
    }
    tokens = [state[name] for name in ("register_tokens", "cls_token", "pos_embed") if name in state]
    if len(tokens) == 3 and all(each.ndim == 3 and each.shape[2] == tokens[0].shape[2] for each in tokens):
        positions = state["pos_embed"]
        state |= {"cls_token": state["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
        state["reg_token"] = state.pop("register_tokens")
    return state


def _dinov3(state: State) -> State:
    """facebookresearch/dinov3 `models/vision_transformer.py` as timm's `*_dinov3_qkvb`: rotary positions, whose keys have no bias."""
    swiglu = {"mlp.w1.": "mlp.fc1_g.", "mlp.w2.": "mlp.fc1_x.", "mlp.w3.": "mlp.fc2."}
    found: State = {}
    for name, value in state.items():
        for theirs, ours in {"storage_tokens": "reg_token", "ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2", **swiglu}.items():
            name = name.replace(theirs, ours)
        if name.endswith("attn.qkv.bias") and value.ndim == 1 and len(value) % 3 == 0 < len(value):
            query, _, values = value.chunk(3)  # bias_mask is 0 over the keys
            found |= {name.replace("qkv.bias", "q_bias"): query, name.replace("qkv.bias", "v_bias"): values}
        else:
            found[name] = value
    return found


LAYOUTS = {  # a file is taken for the first of those whose mark it bears
    "dinov3": Layout(
        ("teacher", "model"), ("module.backbone.", "backbone.", ""),
        r"(head|dino_head|ibot_head|local_cls_norm|rope_embed)\.|mask_token$|.*\.bias_mask$", r"(.*\.)?storage_tokens$", renamed=_dinov3,
    ),
    "mae": Layout(("model",), ("module.", ""), r"decoder_|mask_token$|head\.", r"(module\.)?decoder_", fixed_positions=True),
    "dinov2": Layout(
        ("teacher", "model"), ("module.backbone.", "backbone.", ""), r"(head|dino_head|ibot_head)\.|mask_token$",
        r"(backbone\.)?(mask_token$|register_tokens$)", renamed=_dinov2,
    ),
    "moco_v3": Layout(
        ("state_dict",), ("module.base_encoder.", "base_encoder."), r"(fc|head)\.", r"(module\.)?base_encoder\.", fixed_positions=True
    ),
    "moco": Layout(("state_dict",), ("module.encoder_q.", "encoder_q."), r"fc\.", r"(module\.)?encoder_q\."),
    "simsiam": Layout(("state_dict",), ("module.encoder.", "encoder."), r"fc\.", r"(module\.)?encoder\.conv1\."),
    "dino": Layout(("teacher",), ("module.backbone.", "backbone.", ""), r"(fc|head)\.", r"(module\.)?(backbone\..*|head\.(mlp|last_layer)\.)"),
    "barlow_twins": Layout(("model",), ("module.backbone.", "backbone.", ""), r"fc\.", r"(module\.)?(backbone|projector)\."),
    "torchvision": Layout(("state_dict", "model"), ("module.", ""), r"(fc|heads)\.", r"(module\.)?(conv1\.weight|class_token|conv_proj\.weight)$"),
    "timm": Layout(("state_dict", "model"), ("module.", ""), r"(fc|head)\.", r"(module\.)?patch_embed\.proj\.weight$"),
}  # fmt: skip


def tensors_in(raw: Mapping[str, Any], layout: Layout) -> State:
    """All tensors of the state dict where the layout keeps it."""
    state = next((raw[key] for key in layout.within if isinstance(raw.get(key), Mapping)), raw)
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def guessed(raw: Mapping[str, Any]) -> str:
    """The layout of a file by its names; empty where they tell none."""
    for name, layout in LAYOUTS.items():
        if any(re.match(layout.mark, each) for each in tensors_in(raw, layout)) and select(raw, layout):
            return name
    return ""


def unwrapped(raw: Mapping[str, Any]) -> dict[str, State]:
    """Networks that a file holds under any names, as Lightning, torch.compile and students of one's own have them: where, as KEY PREFIX, and the
    tensors under their bare names.
    """
    parts = {"": raw, **{str(key): value for key, value in raw.items() if isinstance(value, Mapping)}}
    found: dict[str, State] = {}
    for key, part in parts.items():
        state = {str(name).replace("_orig_mod.", ""): value for name, value in part.items() if isinstance(value, Tensor)}
        for name in state:
            for stem in STEMS:
                prefix = name.removesuffix(stem)
                if name.endswith(stem) and any(f"{prefix}{after}" in state for after in BEHIND):
                    found[f"{key} {prefix}".strip()] = {
                        each[len(prefix) :]: value for each, value in state.items() if each.startswith(prefix)
                    }
    return found


def taken(raw: Mapping[str, Any], name: str) -> list[str]:
    """What of a file is taken where it could be something else, in words: one of several networks, positions without the class token's."""
    layout = LAYOUTS[name]
    mine = next((key for key in layout.within if isinstance(raw.get(key), Mapping)), "")
    others = [str(key) for key, value in raw.items() if isinstance(value, Mapping) and key != mine and unwrapped({"": value})]
    told = [f"taken is {mine!r}; it also holds {', '.join(map(repr, others))}"] if mine and others else []
    state = select(raw, layout)
    positions = state.get("pos_embed")
    if positions is not None and "cls_token" in state and "reg_token" not in state and positions.ndim == 3:
        side = math.isqrt(positions.shape[1])
        if side**2 == positions.shape[1]:
            told.append(f"its positions are taken as {side} x {side}, none of them the class token's")
    return told


def select(raw: Mapping[str, Any], layout: Layout) -> State:
    """The backbone's tensors under their bare names, timm's or torchvision's; empty where the layout is another."""
    state = tensors_in(raw, layout)
    for prefix in layout.prefixes:
        if any(prefix + stem in state for stem in STEMS):
            bare = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
            return layout.renamed({name: value for name, value in bare.items() if not re.match(layout.heads, name)})
    return {}


def select_named(raw: Mapping[str, Any], layout: Layout, wanted: set[str], classifiers: tuple[str, ...]) -> State:
    """The tensors of a network whose names are known, under these; without its classifiers and what the layout has for heads."""
    state = tensors_in(raw, layout)
    prefix = next((prefix for prefix in layout.prefixes if any(prefix + name in state for name in (*wanted, *STEMS))), "")
    bare = layout.renamed({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})
    left = tuple(f"{name}." for name in classifiers)
    return {
        name: value
        for name, value in bare.items()
        if name in wanted or not (name.startswith(left) or re.match(layout.heads, name))
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
    """The same tensors under the names of contray's backbones. torchvision's ViTs of before 0.13 name the layers of an MLP.

    Raises UserError where a tensor cannot be such a network's.
    """
    _dimensions(state)
    if "patch_embed.proj.weight" in state:
        positions = state.get("pos_embed")
        if positions is not None and math.isqrt(positions.shape[-2]) ** 2 == positions.shape[-2]:  # none of the class token
            state = {**state, "pos_embed": F.pad(positions, (0, 0, 1, 0))}
        return {from_timm(name): value for name, value in state.items()}
    old = {".mlp.linear_1.": ".mlp.0.", ".mlp.linear_2.": ".mlp.3."}
    return {re.sub(r"\.mlp\.linear_[12]\.", lambda found: old[found[0]], name): value for name, value in state.items()}


def _dimensions(state: State) -> None:
    """Raises UserError, naming the tensor, where one that tells of a backbone of contray has not as many dimensions as that has."""
    for name, value in state.items():
        wanted = 4 if name in STEMS else 3 if name.endswith((*POSITIONS, "cls_token", "class_token")) or name in REGISTERS else 0
        if wanted and (value.ndim != wanted or not value.numel()):
            raise UserError(
                f"another architecture: {name} is {_shape(value)}, which must have {wanted} dimensions and be not empty"
            )


def unusable(state: Mapping[str, Tensor]) -> str:
    """What keeps a network from computing with such numbers, of the first tensor; empty where nothing does."""
    for name, value in state.items():
        if value.is_complex():
            return f"{name} holds complex numbers"
        if not bool(torch.isfinite(value if value.dtype.itemsize > 1 else value.float()).all()):
            return f"{name} holds numbers that are not finite"
        if name.endswith("running_var") and bool((value < 0).any()):
            return f"{name} holds a variance below 0"
    return ""


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


DINOV3 = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}  # by width, as timm calls them


def dinov3_network(state: State) -> dict[str, Any]:
    """Settings of timm's network of DINOv3's ViT, whose features are its class token. Raises UserError where timm has none.

    state: under timm's names, as `select` gives it.
    """
    _dimensions(state)
    if "patch_embed.proj.weight" not in state:
        raise UserError("no ViT of DINOv3: there is no patch_embed.proj.weight")
    projection = state["patch_embed.proj.weight"]
    size, plus = DINOV3.get(projection.shape[0], ""), "_plus" if "blocks.0.mlp.fc1_g.weight" in state else ""
    if not size or projection.shape[-1] != 16:
        raise UserError(
            f"a ViT of DINOv3 of width {projection.shape[0]} and patches of {projection.shape[-1]} px, which timm has not"
        )
    return {
        "backbone.name": f"timm/vit_{size}{plus}_patch16_dinov3_qkvb", "backbone.timm.options": ("global_pool=token",),
        "views.image.size": 224, **_channels(projection),
    }  # fmt: skip


def _channels(weight: Tensor) -> dict[str, Any]:
    """Of images that are not RGB."""
    return {"data.channels": weight.shape[1]} if weight.shape[1] != 3 else {}


def adapted(state: State, wanted: Mapping[str, Tensor], prefix: int = 1) -> tuple[State, list[str]]:
    """The weights of a network of other channels or another image size, and what was done to them, in words.

    The first layer's weights for other channels than RGB are their mean over RGB in each, in all as large a sum. Positions of patches are
    interpolated (bicubic, as a ViT of contray does it for images of another size). prefix: tokens before the patches that have positions.
    """
    found, told = dict(state), list[str]()
    for name, tensor in state.items():
        shape = wanted[name].shape if name in wanted else tensor.shape
        if tensor.ndim == 4 == len(shape) and tensor.shape[1] == 3 != shape[1] and tensor.shape == (shape[0], 3, *shape[2:]):
            found[name] = (tensor.mean(1, keepdim=True) * (3 / shape[1])).expand(shape).clone()
            told.append(f"it is of RGB; its first layer's weights for {shape[1]} channels are their mean, rescaled")
        elif (
            name.endswith(POSITIONS) and tensor.ndim == 3 == len(shape) and tensor.shape != shape and tensor.shape[2] == shape[2]
        ):
            before, after = (math.isqrt(max(count - prefix, 0)) for count in (tensor.shape[1], shape[1]))
            if before and after and (before**2 + prefix, after**2 + prefix) == (tensor.shape[1], shape[1]):
                grid = tensor[:, prefix:].transpose(1, 2).unflatten(2, (before, before)).float()
                wide = F.interpolate(grid, size=(after, after), mode="bicubic", align_corners=False).to(tensor.dtype)
                found[name] = torch.cat([tensor[:, :prefix], wide.flatten(2).transpose(1, 2)], 1)
                told.append(f"positions of {before} x {before} patches were interpolated to {after} x {after}")
    return found, told


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
