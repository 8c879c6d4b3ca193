"""Backbones: plain torchvision networks without their classifier, batch norm under the norm law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from methods._parts import convert_norms

from .config import BackboneConfig
from .seeds import seeded


def factory(config: BackboneConfig, seed: int) -> Callable[[], nn.Module]:
    """A function that builds the configured backbone, the same weights at each call: (B, 3, H, W) -> (B, out_dim)."""

    def build() -> nn.Module:
        with seeded(seed, "backbone"):
            return convert_norms(_resnet(config))

    return build


def _resnet(config: BackboneConfig) -> nn.Module:
    """torchvision's ResNet with the configured stem and width; its `fc` is the identity."""
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    block, layers = {
        "resnet_small": (BasicBlock, [1, 1, 1, 1]),
        "resnet18": (BasicBlock, [2, 2, 2, 2]),
        "resnet34": (BasicBlock, [3, 4, 6, 3]),
        "resnet50": (Bottleneck, [3, 4, 6, 3]),
    }[config.name]
    net: Any = ResNet(block, layers, zero_init_residual=config.zero_init_residual)
    if config.width != 64:
        _scale_width(net, config.width / 64)
    if config.stem == "cifar":  # Chen et al. 2020, appendix B.9
        net.conv1 = nn.Conv2d(3, config.width, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    out_dim = round(net.fc.in_features * config.width / 64)
    net.fc = nn.Identity()
    net.out_dim = out_dim
    return net


def _scale_width(net: nn.Module, factor: float) -> None:
    """Every convolution and norm of a torchvision ResNet, `factor` times as wide (torchvision widens bottlenecks only)."""
    for name, child in net.named_children():
        if isinstance(child, nn.Conv2d):
            inputs = child.in_channels if child.in_channels == 3 else round(child.in_channels * factor)
            outputs, stride = round(child.out_channels * factor), child.stride
            conv = nn.Conv2d(inputs, outputs, child.kernel_size, stride, child.padding, bias=False)  # pyright: ignore[reportArgumentType]
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            setattr(net, name, conv)
        elif isinstance(child, nn.BatchNorm2d):
            norm = nn.BatchNorm2d(round(child.num_features * factor))
            with torch.no_grad():
                norm.weight.fill_(child.weight[0].item())
            setattr(net, name, norm)
        else:
            _scale_width(child, factor)
