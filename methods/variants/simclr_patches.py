"""SimCLR on two patches of an image at a set distance (Tian et al. 2020, "What Makes for Good Views": the nearer, the more they share).

B batch rows, G patches per side of the grid, F backbone features
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._base import Batch, Clock, Reps, View, setting
from ..simclr import METRICS, PAPER, RECIPE, SimCLR
from ..simclr import PRESETS as WHOLE
from ..simclr import Config as Whole


@dataclass(frozen=True)
class Config(Whole):
    distance: int = setting(1, "steps down and to the right from one patch to the other", unit="strides of the grid", ge=0)


VIEWS = {"patches": View(size=512, kind="patches", grid=(8, 64, 64), crop=(0.08, 1.0))}
# else colours tell patches of an image
SMALL = View(
    size=32,
    kind="patches",
    grid=(4, 20, 4),
    crop=(1.0, 1.0),
    ratio=(1.0, 1.0),
    flip=0.0,
    per_patch=True,
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_p=0.8,
    gray=0.2,
)
PRESETS = {
    "paper": replace(WHOLE["paper"], about="patches of 64 px in a crop of 512"),
    "cifar_short": replace(
        WHOLE["cifar_short"], about="patches of 20 px, 4 px apart", views={"patches": replace(SMALL, flip=0.5)}
    ),
    "digits": replace(WHOLE["digits"], about="patches of 20 px of the built-in digits, 4 px apart", views={"patches": SMALL}),
}


class Patches(SimCLR):
    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        side = views["patches"].grid[0]
        if config.distance >= side:
            raise ValueError(f"distance: got {config.distance}, must be below the {side} patches of a side of views.patches.grid")

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        patches = batch.views["patches"]  # (B, G*G, 3, h, w)
        side = round(patches.shape[1] ** 0.5)
        room = side - self.config.distance
        row, column = (batch.rand("place", (2,), torch.float64) * room).long().clamp(max=room - 1).unbind(1)  # (B,) each
        first = row * side + column  # (B,)
        second = first + self.config.distance * (side + 1)  # (B,)
        rows = torch.arange(len(patches), device=patches.device)
        h = self.backbone(torch.cat([patches[rows, first], patches[rows, second]]))  # (2B, F)
        return {"view": h.unflatten(0, (2, -1)).transpose(0, 1)}  # (B, 2, F)

    @classmethod
    def eval_views(cls, views: Mapping[str, View]) -> dict[str, View]:
        """The whole image."""
        return {"image": View(size=views["patches"].size, crop=(0.0, 0.0), flip=0.0)}
