"""Encoders for others: torchvision's and timm's weights, ONNX, or contray's own folder, each with its model card."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..config.sections import BACKBONES, LIBRARIES
from ..data.views import centred_from
from ..errors import ConfigError, UserError, nearest
from ..model import encoder, layouts
from ..model.plain import blank, plain_backbone
from ..model.resnet import RESNETS, StandardizedConv2d
from ..model.vit import SHAPES, VisionTransformer
from . import cards, drafts

FORMATS = {"torchvision": "model.safetensors", "timm": "model.safetensors", "safetensors": encoder.WEIGHTS, "onnx": "model.onnx"}


def export_to(trained: encoder.Encoder, to: str, out: Path, origin: cards.Origin) -> Path:
    """Write the new folder `out`: weights, config.yaml and the model card README.md. Returns the file of the weights.

    to: torchvision or timm (the plain network's weights as safetensors), onnx (whatever `encode` does, as a graph), or safetensors
    (the method with its heads, as `contray eval --checkpoint` takes it). Raises UserError, with nothing written, where `to` has no such network.
    """
    check(to, out)
    config, method = trained.config, copy.deepcopy(trained.method).cpu().float().eval()
    state = {}
    if to in ("torchvision", "timm"):
        _refuse_unknown(config, to)
        try:
            net = plain_backbone(config, method)
        except UserError as error:
            raise UserError(f"{error}; use --to safetensors or --to onnx") from None
        state = plain_state(net, config, to)
    with drafts.draft(out) as folder:
        if to == "safetensors":
            encoder.export(config, trained.method, folder)
        elif to == "onnx":
            _write_onnx(config, method, folder / FORMATS[to])
        else:
            from safetensors.torch import save_file

            save_file(state, folder / FORMATS[to], encoder.noted(config))
            if to == "timm" and (known := _timm_config(config)):
                (folder / "config.json").write_text(json.dumps(known, indent=1) + "\n")
        (folder / encoder.CONFIG).write_text(config.to_yaml())
        (folder / FORMATS[to]).chmod((folder / encoder.CONFIG).stat().st_mode)  # safetensors lets nobody else read it
        (folder / "README.md").write_text(cards.card(trained, to, folder / FORMATS[to], origin))
    return out / FORMATS[to]


def check(to: str, out: Path) -> None:
    """Refuse what can be refused before the encoder is fetched."""
    if to not in FORMATS:
        raise UserError(f"--to: got {to!r}; {nearest(to, FORMATS)}")
    if to == "onnx":
        try:
            import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
            import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(f'--to onnx: needs {error.name}: pip install "contray[export]"') from None
    drafts.check(out)


def _refuse_unknown(config: RunConfig, to: str) -> None:
    """Backbones that neither library can build from its own classes."""
    net, other = config.backbone, "--to safetensors and --to onnx take any encoder"
    if net.name not in BACKBONES:
        library = net.name.partition("/")[0]
        if library != to:
            own = f"--to {library} takes this one, " if net.name.startswith(LIBRARIES) else ""
            raise ConfigError("backbone.name", f"{net.name} is no network of {to}; {own}{other}")
        return
    if net.name == "alexnet":
        raise ConfigError("backbone.name", f"alexnet with batch norm is no network of {to}; {other}")
    if net.selective_kernels and net.name.startswith("resnet"):
        raise ConfigError("backbone.selective_kernels", f"{to} has no ResNet with selective kernels; {other}")
    if net.registers and net.name in SHAPES and to == "torchvision":
        raise ConfigError("backbone.registers", f"torchvision's ViTs have none; --to timm takes this one, {other}")
    if to == "timm" and net.name.startswith("resnet") and (net.width != 64 or net.norm != "bn"):
        raise ConfigError(
            "backbone.width", f"timm's ResNets start at 64 channels and have batch norm; --to torchvision takes this one, {other}"
        )


def _timm_config(config: RunConfig) -> dict[str, Any]:
    """What `timm.create_model("local-dir:FOLDER")` and `hf-hub:` read: the network and how images are prepared; empty where timm has no such network."""
    net, view = config.backbone, next(iter(config.views.values()))
    if view.sobel or view.space != "rgb":  # timm has no such transform
        return {}
    side = view.size - view.size % net.patch if net.name in SHAPES else view.size
    if net.name.startswith("timm/"):
        name, args = net.name.removeprefix("timm/").partition(".")[0], {}
    elif net.name in SHAPES:
        depth, heads, width = SHAPES[net.name]
        name = "vit_base_patch16_224"  # of any shape, by its arguments
        args = {
            "img_size": side,
            "patch_size": net.patch,
            "depth": depth,
            "num_heads": net.heads or heads,
            "embed_dim": width or net.width,
        }
        args |= {"reg_tokens": net.registers, "no_embed_class": True} if net.registers else {}
    elif net.name in RESNETS and net.name != "resnet_small" and net.stem != "cifar":
        name, args = net.name, {}
    else:
        return {}
    if config.channels != 3:
        args["in_chans"] = config.channels
    prepared = {
        "input_size": [config.channels, side, side], "fixed_input_size": net.name in SHAPES, "crop_pct": side / centred_from(view.size),
        "interpolation": "bicubic" if "cubic" in view.interpolation else "bilinear", "mean": list(config.augment.mean), "std": list(config.augment.std),
        "num_classes": 0,
    }  # fmt: skip
    return {"architecture": name, "num_classes": 0, "model_args": args, "pretrained_cfg": prepared}


@torch.no_grad()
def plain_state(net: nn.Module, config: RunConfig, to: str) -> layouts.State:
    """The weights under the library's names. What the library's network has no layer for is folded into the layer before it: layer scale,
    weight standardisation, and positions interpolated to another grid.
    """
    state = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    for name, module in net.named_modules():
        if isinstance(module, StandardizedConv2d):
            state[f"{name}.weight"] = module.filters()
    if isinstance(net, VisionTransformer):
        grid = next(iter(config.views.values())).size // net.patch_size
        state["encoder.pos_embedding"] = torch.cat([net.encoder.pos_embedding[:, :1], net.positions(grid, grid)], 1)
        for name in [name for name in state if name.endswith(".scale")]:
            scale = state.pop(name)  # (D,)
            layer = name.replace("dropout.scale", "self_attention.out_proj").replace("mlp.4.scale", "mlp.3")
            state[f"{layer}.weight"] *= scale[:, None]
            state[f"{layer}.bias"] *= scale
        if net.registers is not None:  # timm has no positions of the class token beside registers
            positions = state["encoder.pos_embedding"]
            state["class_token"] += positions[:, :1]
            state["encoder.pos_embedding"] = positions[:, 1:]
        if to == "timm":
            state = {layouts.to_timm(name): tensor for name, tensor in state.items()}
    return {name: tensor.contiguous() for name, tensor in state.items()}


class _Encode(nn.Module):
    """`encode` as the forward pass of a module, for the exporter."""

    def __init__(self, method: Any, names: list[str]) -> None:
        super().__init__()
        self.method, self.names = method, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.method.encode(dict(zip(self.names, inputs, strict=True)))


def _write_onnx(config: RunConfig, method: Any, path: Path) -> None:
    inputs = blank(config, method)
    rows = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        _Encode(method, list(inputs)).eval(),
        tuple(inputs.values()),
        output_names=["features"],
        dynamic_shapes={"inputs": tuple({0: rows} for _ in inputs)},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    graph = program.model.graph
    for value in (value for node in graph for value in node.outputs):
        if value.name in inputs:  # the exporter names values after operations, such as view
            value.name = f"{value.name}_"
    for value, name in zip(graph.inputs, inputs, strict=True):
        value.name = name
    program.save(str(path), external_data=False)
