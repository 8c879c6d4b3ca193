"""A probe of tokens: one learned query attends to them. B minibatch, T tokens, D features, C classes"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._base import Citation, Measured, Subject
from .common.settings import CroppedProbe

ABOUT = "a learned query over the encoder's tokens and a linear layer, on random crops: for encoders whose class token was never trained"
PAPER = Citation("Context Autoencoder for Self-Supervised Representation Learning", 2022, "https://arxiv.org/abs/2202.03026")
NEEDS = ("labels", "tokens")
METRICS = ("attentive_val_top1",)


@dataclass(frozen=True)
class Config(CroppedProbe):
    """Keys eval.attentive.*."""


def evaluate(subject: Subject, options: Config) -> Measured:
    """attentive_val_top1 and _top1: see `trained_probe`. Raises UserError where the encoder has no tokens."""
    from .common.tokens import tokens
    from .common.trained import trained_probe

    return trained_probe(subject, "attentive", options, lambda inputs: tokens(subject.method, inputs), AttentiveProbe)


class AttentiveProbe(nn.Module):
    """One learned query that attends to the layer-normed tokens, then a linear layer: (B, T, D) -> (B, C).

    CAE's evaluation (Chen et al. 2022, arXiv 2202.03026, §4) of encoders whose class token was never trained; without batch norm.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        heads = next(count for count in range(max(1, width // 64), 0, -1) if width % count == 0)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        pooled, _ = self.attention(self.query.expand(len(x), -1, -1), x, x, need_weights=False)  # (B, 1, D)
        return self.head(pooled[:, 0])
