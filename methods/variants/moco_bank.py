"""MoCo with a memory bank for its dictionary: keys are what the query encoder said of a sample when it last saw it (He et al. 2020, figure 2b).

B batch rows, N rows of the global batch, F backbone features, D projected features, K keys drawn
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from .._base import Batch, Clock, Limit, Reps
from .._parts import bank_scores, new_bank, normalize, write_bank
from .._ranks import gather
from ..moco import METRICS, PAPER, PRESETS, RECIPE, VIEWS, Config, MoCo

PAPER = replace(PAPER, contrasts="a query against its own and drawn rows of a memory bank", negatives="memory bank", ema="no")


class Bank(MoCo):
    """`queue_size` keys are drawn from the bank for each query; `momentum` is of no use: no network is averaged, and no row of the bank."""

    strided = ()

    bank: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.register_buffer("bank", new_bank(samples, config.dim))  # (dataset, D)

    @classmethod
    def limits(cls, config: Config, *, samples: int, batch: int) -> dict[str, Limit]:
        return {}

    def ema_pairs(self):
        return iter(())

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {"query": self.backbone(batch.views["query"])}  # (B, F)

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        query = normalize(self.head(reps["query"]))  # (B, D)
        draws = batch.rand("candidates", (self.config.queue_size,), torch.float64)  # (B, K)
        scores = bank_scores(query, self.bank, batch.index, draws, self.config.temperature)  # (B, 1+K)
        loss = (scores.sum(1) / scores[:, 0]).log().sum() / batch.size  # InfoNCE, the own row first
        reps |= {"rows": gather(query.detach(), batch.size), "index": gather(batch.index, batch.size)}  # (N, D), (N,)
        hits = (scores.detach().argmax(1) == 0).to(loss.dtype).sum()
        return {"loss": loss, "contrast_top1": hits / batch.size}

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        write_bank(self.bank, reps["index"], reps["rows"], momentum=0.0)
