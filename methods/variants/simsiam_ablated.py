"""SimSiam without its stop-gradient or its predictor (Chen & He 2021, §4.1 and table 1, https://arxiv.org/abs/2011.10566)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from .._base import Batch, Clock, Reps, setting
from .._parts import negative_cosine
from ..simsiam import DIFFERS, METRICS, PAPER, PRESETS, RECIPE, VIEWS, SimSiam, spread
from ..simsiam import Config as SimSiamConfig


@dataclass(frozen=True)
class Config(SimSiamConfig):
    stop_gradient: bool = setting(True, "whether the gradient stops at the projection that is predicted (figure 2)")
    predictor: Literal["learned", "fixed", "none"] = setting("learned", "the predictor; fixed: stays as it was drawn (table 1)")


class AblatedSimSiam(SimSiam):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        if config.predictor == "none":
            self.predictor = nn.Identity()
        self.predictor.requires_grad_(config.predictor == "learned")

    def param_groups(self) -> list[dict[str, Any]]:
        trained = ([p for p in group["params"] if p.requires_grad] for group in super().param_groups())
        return [group | {"params": kept} for group, kept in zip(super().param_groups(), trained, strict=True) if kept]

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        z0, z1 = (self.projector(h) for h in reps.values())  # (B, D)
        p0, p1 = self.predictor(z0), self.predictor(z1)  # (B, D)
        t0, t1 = (z.detach() if self.config.stop_gradient else z for z in (z0, z1))
        loss = (negative_cosine(p0, t1, batch.size) + negative_cosine(p1, t0, batch.size)) / 2
        return {"loss": loss, "output_std": spread(z0, batch.size)}
