"""SimSiam as the alternation that its authors suppose (Chen & He 2021, §5.1, https://arxiv.org/abs/2011.10566): targets stay for k steps, then are set anew.

B batch rows, F backbone features, D projected features
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._base import Batch, Clock, Reps, setting
from .._parts import average_of, negative_cosine
from ..simsiam import DIFFERS, METRICS, PAPER, PRESETS, RECIPE, VIEWS, SimSiam, spread
from ..simsiam import Config as SimSiamConfig


@dataclass(frozen=True)
class Config(SimSiamConfig):
    inner_steps: int = setting(1, "k, steps for which the network that gives the targets stays; 1: SimSiam", unit="steps", ge=1)


class AlternatingSimSiam(SimSiam):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.target_backbone, self.target_projector = average_of(self.backbone), average_of(self.projector)

    def ema_pairs(self):
        yield self.backbone, self.target_backbone
        yield self.projector, self.target_projector

    def ema_momentum(self, clock: Clock) -> float:
        """0, a copy, after every k-th step; 1, no change, after the others."""
        return 0.0 if (clock.step + 1) % self.config.inner_steps == 0 else 1.0

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        with torch.no_grad():
            targets = {f"target{i}": self.target_backbone(batch.views[f"view{i}"]) for i in range(2)}  # (B, F) each
        return super().represent(batch, clock) | targets

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        z0, z1 = (self.projector(reps[name]) for name in ("view0", "view1"))  # (B, D)
        p0, p1 = self.predictor(z0), self.predictor(z1)  # (B, D)
        with torch.no_grad():
            t0, t1 = (self.target_projector(reps[name]) for name in ("target0", "target1"))  # (B, D)
        loss = (negative_cosine(p0, t1, batch.size) + negative_cosine(p1, t0, batch.size)) / 2
        return {"loss": loss, "output_std": spread(z0, batch.size)}
