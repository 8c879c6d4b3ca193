"""BYOL without its predictor (Grill et al. 2020, table 5b, https://arxiv.org/abs/2006.07733). Without its average: method.momentum 0."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .._base import setting
from ..byol import BYOL, DIFFERS, METRICS, PAPER, PRESETS, RECIPE, VIEWS
from ..byol import Config as BYOLConfig


@dataclass(frozen=True)
class Config(BYOLConfig):
    predictor: bool = setting(True, "whether a predictor stands behind the online projector")


class AblatedBYOL(BYOL):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        if not config.predictor:
            self.predictor = nn.Identity()
