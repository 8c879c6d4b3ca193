"""CMC whose first view alone is measured, so that its features are equally many however many views taught it (Tian et al. 2019, §4.3)."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from .._base import Preset
from ..cmc import CMC, DIGITS, EDGES, METRICS, PAPER, RECIPE, SHARED, VIEWS, Config
from ..cmc import PRESETS as WHOLE

PRESETS = WHOLE | {
    "digits_three": Preset(
        "the built-in digits, their edges and their mask",
        DIGITS | {"method.groups": (3, 3, 3)},
        {"view": replace(SHARED, space="rgb"), "edges": EDGES, "mask": replace(EDGES, source="mask", sobel=False)},
    ),
}


class First(CMC):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.out_dim //= len(config.groups)

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        image = next(iter(inputs.values()))  # the first view's channels are the first of the first image
        return self.backbone(image[:, : self.config.groups[0]])  # (B, F)
