"""The built-in convolutional networks: torchvision's ResNets in other widths, stems and norms, and AlexNet, without their classifiers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import ResNet as TorchvisionResNet

from ..config.sections import BackboneConfig
from .lawful import convert_norms

RESNETS = {  # kind of block, blocks of each stage
    "resnet_small": ("BasicBlock", [1, 1, 1, 1]),
    "resnet18": ("BasicBlock", [2, 2, 2, 2]),
    "resnet34": ("BasicBlock", [3, 4, 6, 3]),
    "resnet50": ("Bottleneck", [3, 4, 6, 3]),
    "resnet101": ("Bottleneck", [3, 4, 23, 3]),
    "resnet152": ("Bottleneck", [3, 8, 36, 3]),
}


class ResNet(TorchvisionResNet):
    """(B, C, H, W) -> (B, D), with its last feature map in reach."""

    def feature_map(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, H, W) -> (B, D) features and their map (B, D, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        cells = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(cells).flatten(1)), cells

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.feature_map(x)[0]


def resnet(config: BackboneConfig) -> nn.Module:
    """torchvision's ResNet with the configured stem and width; its `fc` is the identity."""
    from torchvision.models import resnet

    block, layers = RESNETS[config.name]
    net: Any = ResNet(getattr(resnet, block), layers, zero_init_residual=config.zero_init_residual)
    if config.width != 64:
        _scale_width(net, config.width / 64)
    if config.stem == "cifar":  # Chen et al. 2020, appendix B.9
        net.conv1 = nn.Conv2d(3, config.width, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    if config.selective_kernels:
        _select_kernels(net, config.selective_kernels)
    out_dim = round(net.fc.in_features * config.width / 64)
    net.fc = nn.Identity()
    net.out_dim = net.map_dim = out_dim
    return net


class AlexNet(nn.Module):
    """AlexNet with batch norm after its convolutions, as DeepCluster trains it: (B, 3, H, W) -> (B, 4096), before the last ReLU.

    Without its two dropouts: they draw per feature from the global generator, which would make a step depend on the world.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        shapes = [(96, 11, 4, 2, True), (256, 5, 1, 2, True), (384, 3, 1, 1, False), (384, 3, 1, 1, False), (256, 3, 1, 1, True)]
        for outputs, kernel, stride, padding, pools in shapes:
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(3, 2)] if pools else []
            inputs = outputs
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(6))
        self.classifier = nn.Sequential(nn.Linear(256 * 36, 4096), nn.ReLU(), nn.Linear(4096, 4096))
        self.out_dim, self.map_dim = 4096, 256
        for layer in self.modules():  # the release's `_initialize_weights`
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def feature_map(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) -> (B, 4096) features and the map (B, 256, h, w) of its convolutions."""
        cells = self.features[:-1](x)
        return self.classifier(self.features[-1](cells).flatten(1)), cells

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.feature_map(x)[0]


class SelectiveKernel(nn.Module):
    """Two 3x3 convolutions of which each image weighs every channel (Li et al. 2019, in the form of SimCLR v2's ResNets).

    (B, C, H, W) -> (B, D, H', W'), after norm and ReLU. `ratio`: width of the weighing layer over D, at least 32 channels.
    """

    def __init__(self, conv: nn.Conv2d, ratio: float) -> None:
        super().__init__()
        outputs, middle = conv.out_channels, max(32, round(conv.out_channels * ratio))
        self.conv = nn.Conv2d(conv.in_channels, 2 * outputs, 3, conv.stride, padding=1, bias=False)  # pyright: ignore[reportArgumentType]
        self.norm = nn.BatchNorm2d(2 * outputs)
        self.squeeze = nn.Conv2d(outputs, middle, 1, bias=False)
        self.squeeze_norm = nn.BatchNorm2d(middle)
        self.weigh = nn.Conv2d(middle, 2 * outputs, 1, bias=False)
        for layer in (self.conv, self.squeeze, self.weigh):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = F.relu(self.norm(self.conv(x))).unflatten(1, (2, -1))  # (B, 2, D, H', W')
        seen = both.sum(1).mean((2, 3), keepdim=True)  # (B, D, 1, 1)
        weights = self.weigh(F.relu(self.squeeze_norm(self.squeeze(seen)))).unflatten(1, (2, -1)).softmax(1)
        return (both * weights).sum(1)


class Neighbours(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): each place's mean with those to the right and below, as far as there are any (TensorFlow's 2x2 pooling, SAME)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sums, there = (F.avg_pool2d(F.pad(each, (0, 1, 0, 1)), 2, 1) for each in (x, torch.ones_like(x[:1, :1])))
        return sums / there


def _select_kernels(net: Any, ratio: float) -> None:
    """SimCLR v2's ResNet (Chen et al. 2020, §2): selective kernels for each block's 3x3 convolution (of basic blocks, where the release has none,
    the first), ResNet-D's shortcuts (average pooling before a 1x1 convolution, in the first stage too) and, for the ImageNet stem, its three 3x3
    convolutions (He et al. 2019, fig. 2).
    """
    if net.conv1.kernel_size == (7, 7):
        narrow = net.conv1.out_channels // 2
        stem = [nn.Conv2d(3, narrow, 3, 2, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()]
        stem += [nn.Conv2d(narrow, narrow, 3, 1, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()]
        net.conv1 = nn.Sequential(*stem, nn.Conv2d(narrow, net.conv1.out_channels, 3, 1, 1, bias=False))
        for layer in net.conv1:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in stage:
            name, norm = ("conv2", "bn2") if hasattr(block, "conv3") else ("conv1", "bn1")
            setattr(block, name, SelectiveKernel(getattr(block, name), ratio))
            setattr(block, norm, nn.Identity())  # the selection has its own
            if block.downsample is not None:
                conv, norm = block.downsample
                stride = conv.stride[0]
                pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else Neighbours()
                conv.stride = (1, 1)
                block.downsample = nn.Sequential(pool, conv, norm)


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
                norm.weight.copy_(child.weight[0].expand_as(norm.weight))
            setattr(net, name, norm)
        else:
            _scale_width(child, factor)


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1 / fan-in (Qiao et al. 2019, arXiv 1903.10520, eq. 4)."""

    def filters(self) -> torch.Tensor:
        weight = self.weight.flatten(1)
        weight = (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True) * weight.shape[1] ** 0.5 + 1e-5)
        return weight.view_as(self.weight)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.conv2d(input, self.filters(), self.bias, self.stride, self.padding, self.dilation, self.groups)


def with_norm(net: nn.Module, norm: str) -> nn.Module:
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
            with_norm(child, norm)
    return net
