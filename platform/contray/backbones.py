"""Backbones: torchvision's networks without their classifier, batch norm under the norm law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from methods._ranks import convert_norms

from .config import BackboneConfig, RunConfig
from .seeds import seeded
from .vit import SHAPES, VisionTransformer


def factory(config: RunConfig) -> Callable[..., nn.Module]:
    """A function that builds the configured backbone, the same weights at each call: (B, channels, H, W) -> (B, out_dim).

    A ViT learns the positions of the largest view's patches and interpolates them for others.
    """

    def build(channels: int = 3) -> nn.Module:
        with seeded(config.seed, "backbone"):
            if config.backbone.name in SHAPES:
                side = max(view.grid[1] if view.kind == "patches" else view.size for view in config.views.values())
                net: Any = VisionTransformer(config.backbone, side)
                first = "conv_proj"
            else:
                net, first = _with_norm(_resnet(config.backbone), config.backbone.norm), "conv1"
            if channels != 3:
                conv = getattr(net, first)
                weight = torch.empty(conv.out_channels, channels, *conv.kernel_size)
                nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
                conv.weight, conv.in_channels = nn.Parameter(weight, conv.weight.requires_grad), channels
            return net

    return build


def _resnet(config: BackboneConfig) -> nn.Module:
    """torchvision's ResNet with the configured stem and width; its `fc` is the identity."""
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    block, layers = {
        "resnet_small": (BasicBlock, [1, 1, 1, 1]),
        "resnet18": (BasicBlock, [2, 2, 2, 2]),
        "resnet34": (BasicBlock, [3, 4, 6, 3]),
        "resnet50": (Bottleneck, [3, 4, 6, 3]),
        "resnet101": (Bottleneck, [3, 4, 23, 3]),
        "resnet152": (Bottleneck, [3, 8, 36, 3]),
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


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1 / fan-in (Qiao et al. 2019, arXiv 1903.10520, eq. 4)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight = self.weight.flatten(1)
        weight = (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True) * weight.shape[1] ** 0.5 + 1e-5)
        return F.conv2d(input, weight.view_as(self.weight), self.bias, self.stride, self.padding, self.dilation, self.groups)


def _with_norm(net: nn.Module, norm: str) -> nn.Module:
    """The same network with another norm after its convolutions: no batch statistics anywhere, except for bn."""
    if norm == "bn":
        return convert_norms(net)
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            groups = 1 if norm == "ln" else next(count for count in range(16, 0, -1) if channels % count == 0)
            replaced = nn.Identity() if norm == "none" else nn.GroupNorm(groups, channels)
            if isinstance(replaced, nn.GroupNorm):
                with torch.no_grad():
                    replaced.weight.copy_(child.weight)
            setattr(net, name, replaced)
        elif isinstance(child, nn.Conv2d) and norm == "gn_ws":
            child.__class__ = StandardizedConv2d
        else:
            _with_norm(child, norm)
    return net
