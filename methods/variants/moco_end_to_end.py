"""MoCo without its dictionary: queries and keys of one network, gradients through both (He et al. 2020, figure 2a; InfoNCE within the batch).

B batch rows, N rows of the global batch, D projected features
"""

from dataclasses import replace

from torch import Tensor

from .._base import Batch, Clock, Limit, Reps
from .._parts import normalize, precise
from .._ranks import gather
from .._similarity import identify
from ..moco import PAPER, PRESETS, RECIPE, VIEWS, Config, MoCo

PAPER = replace(PAPER, contrasts="a query against the keys of its batch", negatives="batch", queue="no", ema="no")
METRICS = {
    "loss": "InfoNCE of a query among the keys of the global batch; log(N) at chance",
    "contrast_top1": "share of queries whose own key is the nearest of the batch",
}


class EndToEnd(MoCo):
    """Of MoCo's settings it has no use for `queue_size` and `momentum`: its dictionary is the batch."""

    strided = ()

    @classmethod
    def limits(cls, config: Config, *, samples: int, batch: int) -> dict[str, Limit]:
        return {}

    def negatives(self, batch: int) -> int:
        return batch - 1

    def ema_pairs(self):
        return iter(())

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {name: self.backbone(batch.views[name]) for name in ("query", "key")}  # (B, F) each

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        query, key = (normalize(self.head(reps[name])) for name in ("query", "key"))  # (B, D)
        loss, accuracy = among(query, gather(key, batch.size), batch.slot, self.config.temperature, batch.size)
        return {"loss": loss, "contrast_top1": accuracy}

    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        """There is no queue."""


@precise
def among(query: Tensor, keys: Tensor, slot: Tensor, temperature: float, size: int) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries (B, D) among keys (N, D), their own at `slot`, all L2-normalised: this rank's shares of loss and accuracy."""
    loss, found = identify(query, keys, slot, temperature)
    return loss / size, found / size
