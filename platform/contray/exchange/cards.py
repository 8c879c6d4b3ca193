"""The model card: what an exported encoder is, what it scored, and code that loads it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..config.registry import load_method
from ..config.sections import BACKBONES
from ..data.views import centred_from
from ..model import backbones, libraries
from ..model.encoder import Encoder, kind_of
from ..model.resnet import RESNETS
from ..model.vit import SHAPES


@dataclass(frozen=True)
class Origin:
    """What is on record of where an encoder comes from; empty where nothing is."""

    source: str  # the run or the file
    dataset: str = ""
    commit: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


def card(trained: Encoder, to: str, weights: Path, origin: Origin) -> str:
    """The text of README.md, in the Hugging Face form: a YAML header, then Markdown."""
    config, name = trained.config, Path(trained.config.method.name).stem
    paper = load_method(config.method.name).paper
    samples = int(trained.method.samples.item())
    scores = {key: value for key, value in origin.metrics.items() if key.endswith("top1")}
    rows = "\n".join(f"| {key} | {value:.4f} |" for key, value in sorted(scores.items()))
    settings = "\n".join(f"| `{key}` | {_shown(value)} |" for key, value in config.flat().items() if key.startswith(KEPT))
    about = (
        f"[{paper.title}]({paper.url}) ({paper.year})"
        if paper.url
        else f"{paper.title}: {config.method.file}, layout {config.method.layout}"
    )
    data = (
        f"{samples:,} training images of {origin.dataset or config.data.source}, without labels" if samples else "not on record"
    )
    return f"""\
---
library_name: {LIBRARIES[to]}
tags: [self-supervised, {name}, {config.backbone.name}]
---

# {name} {config.backbone.name}

An encoder of images, exported by contray from {origin.source}.

- **Method**: {name} ({config.method.preset}): {about}
- **Data**: {data}
- **Backbone**: {config.backbone.name}, {sum(p.numel() for p in trained.method.backbone.parameters()):,} parameters
- **Code**: commit {origin.commit or "not on record"}
- **Weights**: `{weights.name}`, sha256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`

## How to load it

In this folder:

```python
{snippet(trained, to)}
```

## Metrics

{f"| metric | value |{chr(10)}| --- | --- |{chr(10)}{rows}{chr(10)}{LEGEND}" if rows else "None on record."}

## Config

`config.yaml` has all of it.

| key | value |
| --- | --- |
{settings}
"""


LEGEND = """
`knn_` is the k-NN vote, `linear_` the linear probe; `val` is held-out training data, the others are of the test set. `random_` is the
untrained encoder, `pixels_` raw pixels."""
LIBRARIES = {"torchvision": "torchvision", "timm": "timm", "safetensors": "contray", "onnx": "onnx"}
KEPT = (
    "method.",
    "backbone.",
    "data.channels",
    "data.range",
    "optim.",
    "train.epochs",
    "train.steps",
    "train.batch_size",
    "augment.",
    "seed",
)


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def snippet(trained: Encoder, to: str) -> str:
    """Python that loads the weights in the folder where it runs and gives `features` of `images`."""
    config = trained.config
    views = type(trained.method).eval_views(config.views)
    if to == "safetensors":
        count, kind = config.channels, f"np.{kind_of(config).name}"
        pictures = ", ".join(f'"{view.source}": np.zeros(({view.size}, {view.size}, {count}), {kind})' for view in views.values())
        one = next(iter(views.values()))
        plain = len(views) == 1 and one.kind == "image" and one.source == "image"
        given = f"np.zeros(({one.size}, {one.size}, {count}), {kind})" if plain else f"{{{pictures}}}"
        return f"""\
from pathlib import Path

import numpy as np
from contray.model.encoder import read_folder

encoder = read_folder(Path("."))
images = [{given}]  # yours: {_kind(config)} of any size
features = encoder(images)  # one row each"""
    if to == "onnx":
        return _onnx(config, views)
    view = next(iter(views.values()))
    vit, own = config.backbone.name in SHAPES, config.backbone.name in BACKBONES
    build = (_vit if vit else _resnet)(config, to, view.size) if own else libraries.code(config, backbones.largest_side(config))
    seen = view.size - view.size % config.backbone.patch if vit else view.size
    cut = f"[..., :{seen}, :{seen}]" if seen < view.size else ""
    return f"""\
import torch
{build}
net.load_state_dict(load_file("model.safetensors"))
net.eval()

images = torch.rand(2, {config.channels}, {view.size}, {view.size}){cut}  # yours: {_asked(view, config)}
mean = torch.tensor({list(config.augment.mean)}).view(-1, 1, 1)
std = torch.tensor({list(config.augment.std)}).view(-1, 1, 1)
features = net((images - mean) / std)  # (2, {trained.method.out_dim})"""


def _kind(config: RunConfig) -> str:
    """What pixels are given as, in words."""
    if not config.data.channels:
        return "uint8 RGB" + (", of deeper images (x - {:g}) / {:g} x 255,".format(*_scaled(config)) if config.data.range else "")
    if not config.data.range:
        return f"uint8 of {config.channels} channels"
    low, high = config.data.range
    return f"integers of {config.channels} channels, or floats (x - {low:g}) / {high - low:g} in [0, 1],"


def _asked(view: Any, config: RunConfig) -> str:
    """The images that a network takes, as contray makes them of files, in words."""
    space, sobel = getattr(view, "space", "rgb"), getattr(view, "sobel", False)
    name = {"rgb": "RGB", "lab": "Lab", "ycbcr": "YCbCr"}[space]
    pixels = f"{config.channels} channels" if config.data.channels else name
    if config.data.range or config.data.channels:
        pixels += ", (x - {:g}) / {:g} clipped to [0, 1]".format(*_scaled(config))
    else:
        pixels += " in [0, 1]"
    kind = "bicubic" if "cubic" in view.interpolation else "bilinear"
    return f"{pixels}; shorter side {centred_from(view.size)} px ({kind}, antialiased), of which the central {view.size} px{', its Sobel magnitude' if sobel else ''}"


def _scaled(config: RunConfig) -> tuple[float, float]:
    """What is black, and how far white lies above it, in a file's own values."""
    low, high = config.data.range or (0.0, 255.0)
    return low, high - low


def _onnx(config: RunConfig, views: Mapping[str, object]) -> str:
    lines = ["import numpy as np", "import onnxruntime", "", 'session = onnxruntime.InferenceSession("model.onnx")']
    lines += [f"mean = np.float32({list(config.augment.mean)}).reshape(-1, 1, 1)"]
    lines += [f"std = np.float32({list(config.augment.std)}).reshape(-1, 1, 1)", "inputs = {}"]
    for name, view in views.items():
        kind, size = getattr(view, "kind", ""), getattr(view, "size", 0)
        rows, side, _ = getattr(view, "grid", (0, 0, 0))
        shape = {
            "patches": f"2, {rows * rows}, {config.channels}, {side}, {side}",
            "image": f"2, {config.channels}, {size}, {size}",
        }
        if kind in shape:
            lines += [f"pixels = np.random.rand({shape[kind]}).astype(np.float32)  # yours: {_asked(view, config)}"]
            lines += [f'inputs["{name}"] = (pixels - mean) / std']
        elif kind == "tokens":
            lines += [
                f'inputs["{name}"] = np.zeros((2, {size}), np.int64)  # yours: 1 + each UTF-8 byte, 257 at the end, 0 after it'
            ]
        else:
            lines += [f'inputs["{name}"] = np.zeros((2, {getattr(view, "channels", 1)}, {size}), np.float32)  # yours']
    return "\n".join([*lines, "(features,) = session.run(None, inputs)"])


def _resnet(config: RunConfig, to: str, side: int) -> str:
    net, width = config.backbone, config.backbone.width
    block, layers = RESNETS[net.name]
    stem = f"nn.Conv2d({config.channels}, {width}, 7, stride=2, padding=3, bias=False)"
    if net.stem == "cifar":
        stem = f"nn.Conv2d({config.channels}, {width}, 3, padding=1, bias=False)"
    if to == "timm":
        imports, build = f"from timm.models.resnet import {block}, ResNet", [f"net = ResNet({block}, {layers}, num_classes=0)"]
    else:
        imports = f"from torchvision.models.resnet import {block}, ResNet"
        norm = f", norm_layer={NORMS[net.norm]}" if net.norm != "bn" else ""
        build = [f"net = {'ResNet' if width == 64 else 'ScaledResNet'}({block}, {layers}{norm})", "net.fc = nn.Identity()"]
    if width != 64:
        called = f"({NORMS[net.norm]})" if " " in NORMS[net.norm] else NORMS[net.norm]
        build = [*SCALED.format(width=width).splitlines(), *build, f"net.bn1 = {called}({width})"]
    if width != 64 or net.stem == "cifar" or config.channels != 3:
        build += [f"net.conv1 = {stem}"]
    if net.stem == "cifar":
        build += ["net.maxpool = nn.Identity()"]
    return "\n".join(["from safetensors.torch import load_file", imports, "from torch import nn", "", *build])


_GROUPS = "lambda channels: nn.GroupNorm(max(n for n in range(1, 17) if channels % n == 0), channels)"
NORMS = {
    "bn": "nn.BatchNorm2d",
    "gn": _GROUPS,
    "gn_ws": _GROUPS,
    "ln": "lambda channels: nn.GroupNorm(1, channels)",
    "none": "nn.Identity",
}
SCALED = """\
class ScaledResNet(ResNet):
    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if planes == 64:
            self.inplanes = {width}  # channels of the first stage instead of 64
        return super()._make_layer(block, planes * {width} // 64, blocks, stride, dilate)


"""


def _vit(config: RunConfig, to: str, side: int) -> str:
    depth, heads, width = SHAPES[config.backbone.name]
    width, heads, patch = width or config.backbone.width, config.backbone.heads or heads, config.backbone.patch
    side -= side % patch
    chans = f", in_chans={config.channels}" if config.channels != 3 else ""
    registers = f", reg_tokens={config.backbone.registers}, no_embed_class=True" if config.backbone.registers else ""
    if to == "timm":
        imports = "from timm.models.vision_transformer import VisionTransformer"
        build = [
            f"net = VisionTransformer(img_size={side}, patch_size={patch}, depth={depth}, num_heads={heads}, embed_dim={width}, num_classes=0{chans}{registers})"
        ]
    else:
        imports = "from torchvision.models import VisionTransformer"
        build = [
            "net = VisionTransformer(",
            f"    image_size={side}, patch_size={patch}, num_layers={depth}, num_heads={heads}, hidden_dim={width}, mlp_dim={4 * width}",
            ")",
            "net.heads = nn.Identity()",
        ]
        if chans:
            build += [f"net.conv_proj = nn.Conv2d({config.channels}, {width}, {patch}, {patch})"]
    return "\n".join(
        ["from safetensors.torch import load_file", imports, *(["from torch import nn"] if to != "timm" else []), "", *build]
    )
