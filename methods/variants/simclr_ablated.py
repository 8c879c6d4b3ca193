"""SimCLR with other heads, and without the normalisation of what it compares (Chen et al. 2020, §4.2 and table 5).

B batch rows, V crops, F backbone features, D projected features
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from .._base import Batch, Clock, Reps, setting
from .._parts import mlp, nt_xent
from ..simclr import METRICS, PAPER, PRESETS, RECIPE, VIEWS, SimCLR
from ..simclr import Config as Whole


@dataclass(frozen=True)
class Config(Whole):
    head: Literal["mlp", "linear", "none"] = setting("mlp", "what stands between features and loss (§4.2, figure 8)")
    l2: bool = setting(True, "whether what is compared is normalised (table 5)")


class Ablated(SimCLR):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        if config.head == "linear":
            self.projector = mlp(self.out_dim, config.projector_dim, last_norm=self.last_norm)  # the release normalises it too
        elif config.head == "none":
            self.projector = nn.Identity()

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        if self.config.l2:
            return super().loss(reps, batch, clock)
        first, second = self.project(reps["view"]).float()  # (B, D) each
        loss, accuracy = nt_xent(first, second, self.config.temperature, batch.slot, batch.size)
        return {"loss": loss, "contrast_top1": accuracy}
