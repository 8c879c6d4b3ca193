"""torchvision's FCN and DeepLab v3 heads on the last map of an encoder's network.

B images, C classes with the background
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from .bodies import Last

STRIDE = 16  # px per step of the last stage's grid, at most (MoCo, appendix: the last stage is dilated, not strided)
RATES = (6, 12, 18)  # dilations of DeepLab's pyramid at that stride (Chen et al. 2017, arXiv 1706.05587, §4.1)


class Segmenter(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> scores (B, C, H, W). `net` becomes part of it and is trained whole."""

    mean: Tensor
    std: Tensor

    def __init__(self, head: str, net: Any, classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.body = Last(net, STRIDE)
        channels = self.body.channels
        self.head = FCNHead(channels, classes) if head == "fcn" else DeepLabHead(channels, classes, RATES)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        x = self.body((images - self.mean) / self.std)  # (B, D, H / s, W / s)
        return F.interpolate(self.head(x), size=images.shape[-2:], mode="bilinear", align_corners=False)  # (B, C, H, W)
