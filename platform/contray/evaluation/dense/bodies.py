"""The network within an encoder, and the feature maps that detection and segmentation stand on: a ResNet's stages, those of any network
with maps, and of a transformer its last grid.

B images, D channels of a map, h x w its grid
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.resnet import ResNet
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from ...config import RunConfig
from ...errors import ConfigError, UserError
from ...methods._base import Method
from ...methods._norms import Dropout, DropPath
from ...model.anatomy import Stage, Transformer, as_map, stages, transformer_of
from ...model.plain import plain_backbone

STAGES = ("layer1", "layer2", "layer3", "layer4")
ODD = (96, 160)  # px: what a detector makes of an image are multiples of 32
COARSEST = 32  # px per step: maps beyond are of the whole image
WIDEST = 256  # channels of a pyramid (Lin et al. 2017; Li et al. 2022)


def body_of(config: RunConfig, method: Method) -> nn.Module:
    """A trainable copy, on the CPU in float32, of the network whose output the method's features are. It drops nothing: no batch is there
    to draw by.

    Raises UserError where the features are more than one network's, or the network sees no colour image, ConfigError where it has no maps.
    """
    if config.data.channels:
        raise ConfigError(
            "data.channels",
            f"got {config.data.channels}, but COCO's pictures are RGB: such an encoder neither detects nor segments",
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
    for layer in net.modules():
        if isinstance(layer, (DropPath, Dropout)):
            layer.rate = 0.0
    try:
        maps = stages_of(net)
        with torch.no_grad():
            net.eval()(torch.zeros(1, 3, *ODD))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            "backbone.name", f"got {config.backbone.name}, which does not take images of any size ({said})"
        ) from None
    if not maps:
        raise ConfigError("backbone.name", f"got {config.backbone.name}, which has no feature maps to detect or segment with")
    return net


@torch.no_grad()
def stages_of(net: nn.Module) -> Mapping[str, Stage]:
    """The maps of a network by the module that puts them out, the finest first, measured on an empty picture."""
    if not isinstance(net, ResNet):
        found = transformer_of(net)
        if found is not None:
            mode = net.training
            grid = Grid(net.eval(), found)
            grid(torch.zeros(1, 3, 3 * found.patch, 2 * found.patch))
            grid.close()
            net.train(mode)
            return {"norm": Stage("norm", grid.channels, grid.stride)}
        return {stage.module: stage for stage in stages(net) if stage.stride <= COARSEST}
    resnet: dict[str, Stage] = {}
    x, mode, side = torch.zeros(1, 3, 64, 64), net.training, 64
    net.eval()
    for name, layer in net.named_children():
        if name == "avgpool":
            break
        x = layer(x)
        if name in STAGES:
            resnet[name] = Stage(name, x.shape[1], side // x.shape[-1])
    net.train(mode)
    return resnet


class Maps(nn.Module):
    """Some of a network's maps: images (B, 3, H, W) -> {"0": (B, D, h, w), ...}, as they come by while the whole network runs."""

    def __init__(self, net: nn.Module, wanted: list[Stage]) -> None:
        super().__init__()
        self.net = net
        self.seen: dict[str, Tensor] = {}
        for i, stage in enumerate(wanted):
            net.get_submodule(stage.module).register_forward_hook(partial(self._see, str(i), stage.last))

    def _see(self, name: str, last: bool, layer: nn.Module, given: Any, output: Tensor) -> None:
        self.seen[name] = as_map(output, last)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.net(x)
        seen, self.seen = self.seen, {}
        return OrderedDict(sorted(seen.items()))


class Grid(nn.Module):
    """A transformer's patches after its last norm, as a map: images (B, 3, H, W) -> {"0": (B, D, h, w)}.

    Images are filled up to whole patches; patches whose side is no power of two are resampled to the nearest one, as pooling asks for.
    """

    def __init__(self, net: nn.Module, transformer: Transformer) -> None:
        super().__init__()
        self.net, self.patch, self.prefix = net, transformer.patch, transformer.prefix
        self.stride = 1 << round(torch.tensor(self.patch).log2().item())
        self.seen: Tensor | None = None
        self.channels = 0
        self.hook = transformer.norm.register_forward_hook(self._see)

    def close(self) -> None:
        self.hook.remove()

    def _see(self, layer: nn.Module, given: Any, output: Tensor) -> None:
        self.seen, self.channels = output[:, self.prefix :], output.shape[-1]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.patch, 0, -height % self.patch))
        self.net(x)
        seen, self.seen = self.seen, None
        assert seen is not None
        found = seen.transpose(1, 2).unflatten(2, (x.shape[-2] // self.patch, x.shape[-1] // self.patch))  # (B, D, h, w)
        if self.stride != self.patch:
            size = (-(-height // self.stride), -(-width // self.stride))
            found = F.interpolate(found, size=size, mode="bilinear", align_corners=False)
        return OrderedDict({"0": found})


class Pyramid(nn.Module):
    """Maps of several strides, all of `out_channels`: images -> {"0": ..., "pool": ...}, the finest first, the coarsest once more, pooled.

    It stands on a network's maps from the stride `finest` on. Its width goes with the network's, 256 channels at most; a ResNet's is
    torchvision's own, 256 channels at 64 in the first stage. `build` draws its weights.
    """

    def __init__(self, net: Any, finest: int) -> None:
        super().__init__()
        found = stages_of(net)
        self.transformer = None if isinstance(net, ResNet) else transformer_of(net)
        used = {name: stage for name, stage in found.items() if stage.stride >= finest or self.transformer}
        self.channels = [stage.channels for stage in used.values()]
        self.strides = [stage.stride for stage in used.values()]
        self.out_channels = min(WIDEST, max(self.channels))
        if self.transformer is not None:
            self.scales = [scale for scale in (4, 2, 1, 0.5) if self.strides[0] / scale >= finest]
            self.strides = [round(self.strides[0] / scale) for scale in self.scales]
            self.body: nn.Module = Grid(net, self.transformer)
        elif isinstance(net, ResNet):
            first: Any = net.layer1[0]
            self.out_channels = 4 * found["layer1"].channels // first.expansion
            self.body = IntermediateLayerGetter(net, {name: str(i) for i, name in enumerate(used)})
        else:
            self.body = Maps(net, list(used.values()))

    def build(self) -> Pyramid:
        if self.transformer is not None:
            self.necks: nn.Module = Scales(self.channels[0], self.out_channels, self.scales)
        else:
            self.necks = FeaturePyramidNetwork(self.channels, self.out_channels, LastLevelMaxPool(), nn.BatchNorm2d)
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.necks(self.body(x))


class Scales(nn.Module):
    """The simple feature pyramid of ViTDet (Li et al. 2022, arXiv 2203.16527, §3): one map at several scales, and the coarsest once more, pooled."""

    def __init__(self, channels: int, width: int, scales: list[float]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_scaled(channels, width, scale) for scale in scales)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = [level(maps["0"]) for level in self.levels]
        return OrderedDict({str(i): x for i, x in enumerate(found)} | {"pool": F.max_pool2d(found[-1], 1, 2)})


def _scaled(channels: int, width: int, scale: float) -> nn.Module:
    layers: list[nn.Module] = []
    if scale == 4:
        layers += [nn.ConvTranspose2d(channels, channels // 2, 2, 2), LayerNorm2d(channels // 2), nn.GELU()]
        channels //= 2
    if scale >= 2:
        layers += [nn.ConvTranspose2d(channels, channels // 2, 2, 2)]
        channels //= 2
    if scale == 0.5:
        layers += [nn.MaxPool2d(2, 2, ceil_mode=True)]
    layers += [nn.Conv2d(channels, width, 1, bias=False), LayerNorm2d(width)]
    return nn.Sequential(*layers, nn.Conv2d(width, width, 3, padding=1, bias=False), LayerNorm2d(width))


class Last(nn.Module):
    """The last map alone, its grid enlarged to a stride of at most `stride`: images -> (B, D, h, w). A ResNet's last stage is dilated instead."""

    def __init__(self, net: nn.Module, stride: int) -> None:
        super().__init__()
        self.channels = 0
        *_, last = stages_of(net).values()
        self.channels, self.enlarged = last.channels, 1
        transformer = transformer_of(net) if not isinstance(net, ResNet) else None
        if isinstance(net, ResNet):
            if last.stride > stride:
                dilate(net.layer4)
            self.maps: nn.Module = IntermediateLayerGetter(net, {"layer4": "0"})
        else:
            self.maps = Grid(net, transformer) if transformer else Maps(net, [last])
            self.enlarged = max(1, last.stride // stride)

    def forward(self, x: Tensor) -> Tensor:
        found = self.maps(x)["0"]
        if self.enlarged == 1:
            return found
        return F.interpolate(found, scale_factor=self.enlarged, mode="bilinear", align_corners=False)


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
