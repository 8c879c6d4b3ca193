"""MAE with other masks than random ones (He et al. 2022, figure 6 and table 1f, https://arxiv.org/abs/2111.06377). B batch rows, L patches"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .._base import Batch, setting
from .._masks import blocks
from ..mae import DIFFERS, MAE, METRICS, PAPER, PRESETS, RECIPE, VIEWS
from ..mae import Config as MAEConfig


@dataclass(frozen=True)
class Config(MAEConfig):
    masks: Literal["random", "blocks", "grid"] = setting(
        "random", "which patches are masked: any, large blocks, or all but one of each four (with method.mask_ratio 0.75)"
    )


class MaskedMAE(MAE):
    def order(self, batch: Batch, patches: int) -> Tensor:
        side = round(patches**0.5)
        if self.config.masks == "blocks":
            hidden = patches - self.seen(patches)
            return blocks(batch.rand("blocks", (32, 4)), side, 16 / 196, hidden).flip(1)  # (B, L), hidden ones last
        if self.config.masks == "grid":
            place = torch.arange(patches, device=batch.slot.device)
            hidden = (place // side % 2 + place % side % 2).clamp(max=1)  # (L,) 0 where both row and column are even
            return hidden.argsort(stable=True).expand(len(batch.slot), -1)  # (B, L)
        return super().order(batch, patches)
