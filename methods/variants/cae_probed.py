"""CAE whose features are the encoder's or the regressor's (Chen et al. 2022, §3.2, https://arxiv.org/abs/2202.03026): which of them represents?

Every other patch is seen, as on a chessboard: the encoder's features are those of the seen patches, the regressor's its predictions of the others.

B batch rows, L patches, L' visible and M masked ones, D features of a token
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .._base import setting
from .._parts import apart, pick
from ..cae import CAE, DIFFERS, METRICS, PAPER, PRESETS, RECIPE, VIEWS
from ..cae import Config as CAEConfig


@dataclass(frozen=True)
class Config(CAEConfig):
    features: Literal["encoder", "regressor"] = setting("encoder", "whose features are evaluated; training is the same")


class ProbedCAE(CAE):
    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        net: Any = self.backbone
        patches = net.patches(inputs["image"])  # (B, L, D)
        place = torch.arange(patches.shape[1], device=patches.device)
        side = round(patches.shape[1] ** 0.5)
        dark = (place // side + place % side) % 2 == 0  # (L,)
        visible, masked = (place[chosen].expand(len(patches), -1) for chosen in (dark, ~dark))  # (B, L'), (B, M)
        whole, seen = apart(net, net.tokens(pick(patches, visible)))  # (B, D), (B, L', D)
        return {"backbone": whole, "tokens": seen if self.config.features == "encoder" else self.regress(seen, masked, visible)}
