"""BYOL with small crops besides (as Caron et al. 2020, §4.3, add them to SwAV, https://arxiv.org/abs/2006.09882): the online network sees all crops, the target
network the two large ones, and each crop predicts every other's target.

B batch rows, V crops, F backbone features
"""

from dataclasses import replace

import torch
from torch import Tensor

from .._base import Batch, Clock, Preset, Reps
from .._parts import encode_crops, negative_cosine
from ..byol import BYOL, DIFFERS, DIGITS, DIGITS_VIEWS, METRICS, PAPER, RECIPE, VIEWS, Config
from ..byol import PRESETS as BYOL_PRESETS

SMALL = replace(DIGITS_VIEWS["first"], size=20, count=4, crop=(0.3, 0.6))
PRESETS = BYOL_PRESETS | {
    "multicrop_digits": Preset("the digits with four small crops besides", DIGITS, DIGITS_VIEWS | {"small": SMALL}),
}


class MultiCropBYOL(BYOL):
    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return super().represent(batch, clock) | encode_crops(self.backbone, batch, "small")

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        crops = [reps["online0"], reps["online1"], *(reps["small"].unbind(1) if "small" in reps else ())]  # V times (B, F)
        online = [self.predictor(self.projector(h)) for h in crops]  # V times (B, D)
        with torch.no_grad():
            target = [self.target_projector(reps[name]) for name in ("target0", "target1")]  # twice (B, D)
        pairs = [negative_cosine(q, z, batch.size) for v, q in enumerate(online) for i, z in enumerate(target) if i != v]
        return {"loss": 4 * len(target[0]) / batch.size + 4 * torch.stack(pairs).mean()}  # of two crops: BYOL's
