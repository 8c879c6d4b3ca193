"""The ResNet within an encoder, and what detection and segmentation need to know of its stages."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...config import RunConfig
from ...errors import ConfigError, UserError
from ...methods._base import Method
from ...model.backbones import RESNETS
from ...model.plain import plain_backbone

STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Stage:
    """What a stage puts out: channels, and pixels of the image per step of its grid."""

    channels: int
    stride: int


def resnet_of(config: RunConfig, method: Method) -> nn.Module:
    """A trainable copy, on the CPU in float32, of the ResNet whose output the method's features are.

    Raises ConfigError for other backbones, UserError where the features are more than one network's, or the network sees no colour image.
    """
    if config.backbone.name not in RESNETS:
        raise ConfigError(
            "backbone.name",
            f"got {config.backbone.name}, but detection and segmentation heads stand on a ResNet's stages: {', '.join(RESNETS)}",
        )
    views = type(method).eval_views(config.views)
    seen = next(iter(views.values()))
    net: Any = None
    if list(views) == ["image"] and seen.kind == "image" and seen.space == "rgb" and not seen.sobel:
        try:
            net = plain_backbone(config, copy.deepcopy(method).cpu().float().eval())
        except UserError:
            net = None
    if net is None:
        raise UserError(
            f"method.name: the features of {config.method.name} are not those of one network on an RGB image, "
            "so it has no backbone to detect or segment with"
        )
    for p in net.parameters():
        p.requires_grad_(True)
    return net


@torch.no_grad()
def stages_of(net: nn.Module) -> Mapping[str, Stage]:
    """Each stage of a ResNet, measured on an empty picture."""
    found: dict[str, Stage] = {}
    x, mode, side = torch.zeros(1, 3, 64, 64), net.training, 64
    net.eval()
    for name, layer in net.named_children():
        if name == "avgpool":
            break
        x = layer(x)
        if name in STAGES:
            found[name] = Stage(x.shape[1], side // x.shape[-1])
    net.train(mode)
    return found


def dilate(stage: nn.Module) -> None:
    """Keep the grid of a stage at its input's and look as far as before (Chen et al. 2017, arXiv 1706.05587, §3.2): stride 1, dilation 2."""
    for layer in stage.modules():
        if isinstance(layer, nn.Conv2d):
            if layer.stride != (1, 1):
                layer.stride = (1, 1)  # its own weights still look at their neighbours, as torchvision's do
            elif layer.kernel_size == (3, 3):
                layer.dilation, layer.padding = (2, 2), (2, 2)
        elif isinstance(layer, nn.AvgPool2d):  # of ResNet-D's shortcuts
            layer.kernel_size = layer.stride = 1
