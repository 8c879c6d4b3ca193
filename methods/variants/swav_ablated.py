"""SwAV whose codes are not balanced over the batch (Caron et al. 2020, §3.1, https://arxiv.org/abs/2006.09882)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .._base import setting
from .._ranks import full
from ..swav import DIFFERS, METRICS, PAPER, PRESETS, RECIPE, VIEWS, SwAV
from ..swav import Config as SwAVConfig


@dataclass(frozen=True)
class Config(SwAVConfig):
    balanced: bool = setting(
        True, "whether Sinkhorn-Knopp has the batch use all prototypes alike; else a code is the softmax of a row's scores"
    )


class AblatedSwAV(SwAV):
    @torch.no_grad()
    def assign(self, z: Tensor, crop: int) -> Tensor:
        if self.config.balanced:
            return super().assign(z, crop)
        return (full(z) @ self.prototypes.to(full(z).dtype).T / self.config.epsilon).softmax(1)  # (N, K)
