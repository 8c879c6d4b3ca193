"""SimCLR v2 with heads of other depths (Chen et al. 2020)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from .._base import setting
from .._parts import mlp
from ..simclr_v2 import METRICS, PAPER, PRESETS, RECIPE, VIEWS, SimCLRv2
from ..simclr_v2 import Config as Whole


@dataclass(frozen=True)
class Config(Whole):
    layers: int = setting(3, "layers of the projector (§2: three; v1: two)", unit="layers", ge=1)


class Ablated(SimCLRv2):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        if config.memory_size:
            raise ValueError(f"memory_size: got {config.memory_size}, the ablation of the head has no memory")
        super().__init__(config, backbone, samples)
        hidden = [config.projector_hidden] * (config.layers - 1)
        self.projector = mlp(self.out_dim, *hidden, config.projector_dim, last_norm="bn_scale")

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of a head of one layer no part is kept for fine-tuning."""
        return super().taps(inputs) if self.config.layers > 1 else {"backbone": self.backbone(inputs["image"])}
