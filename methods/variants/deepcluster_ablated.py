"""DeepCluster whose clusters are found once (Caron et al. 2018, §4.1, https://arxiv.org/abs/1807.05520): of the untrained network's features."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._base import Clock, setting
from ..deepcluster import DIFFERS, METRICS, PAPER, PRESETS, RECIPE, VIEWS, DeepCluster
from ..deepcluster import Config as DeepClusterConfig


@dataclass(frozen=True)
class Config(DeepClusterConfig):
    reassign: bool = setting(True, "whether each epoch clusters anew; else all keep the first one's clusters")
    new_head: bool = setting(
        True, "whether each epoch draws the classifier anew, as new clusters need, though they are the old ones"
    )


class AblatedDeepCluster(DeepCluster):
    @torch.no_grad()
    def begin_epoch(self, clock: Clock, embed: Callable[[], Tensor]) -> Iterable[nn.Parameter]:
        if self.config.reassign or clock.samples == 0:
            return super().begin_epoch(clock, embed)
        return self.drawn(clock) if self.config.new_head else ()
