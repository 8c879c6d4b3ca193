"""InvaSpread: Unsupervised Embedding Learning via Invariant and Spreading Instance Feature.

Ye, Zhang, Yuen & Chang, CVPR 2019, https://arxiv.org/abs/1904.03436 (code: mangye16/Unsupervised_Embedding_Learning).
Each image of the batch is a class of its own whose weight is the feature of its augmentation: no bank, no queue, no projector.

B batch rows, N rows of the global batch, F backbone features, D embedding
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import normalize, precise
from ._ranks import gather
from ._similarity import hits, tiled

PAPER = Paper(
    title="Unsupervised Embedding Learning via Invariant and Spreading Instance Feature",
    year=2019,
    url="https://arxiv.org/abs/1904.03436",
    contrasts="two views of an image against all other images of the batch",
    negatives="batch",
)
METRICS = {
    "loss": "an image's augmentation recognised as itself, and as no other image of the batch: the mean over 2N views; about log(2N) at chance",
    "contrast_top1": "share of views whose partner is the nearest of the batch",
}
DIFFERS = (
    "networks begin by Kaiming's rule; the release's as torch draws them, 2.5 times smaller in their later stages",
    "batch norm runs over the batch, the release's over 4 parts of both crops; its rate's step of a half (epochs 120 to 160) is left out",
    "knn_top1 is of the backbone's features; published numbers are of the embedding that the loss compares: knn_embedding_top1",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.1, "temperature of the softmax (§4)", gt=0)
    dim: int = setting(128, "width of the embedding (§4)", unit="features", ge=1)


VIEWS = {"view": View(count=2, size=32, crop=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, gray=0.2)}

RECIPE = {
    "eval.knn.embedding": True,
    "backbone.name": "resnet18",
    "backbone.stem": "cifar",
    "optim.name": "sgd",
    "optim.lr": 0.06,
    "optim.weight_decay": 5e-4,
    "optim.schedule": "step",
    "optim.milestones": (0.4, 0.66),  # the release drops to .1, .05 and .01 of the rate at epochs 120, 160 and 200 of 301
    "train.batch_size": 128,
    "train.epochs": 301,
}

CIFAR = {"augment.mean": (0.4914, 0.4822, 0.4465), "augment.std": (0.2023, 0.1994, 0.2010), "eval.knn.temperature": 0.1}
PRESETS = {
    "paper": Preset("CIFAR-10 on ResNet-18, batch 128, 301 epochs: 83.6 % k-NN", CIFAR),
    "cifar": Preset("the same as paper, which is CIFAR-10's", CIFAR),
    "digits": Preset(
        "the built-in digits: a residual net of width 16, batch 128, 300 steps",
        {
            "backbone.name": "resnet_small", "backbone.width": 16, "method.temperature": 0.2, "method.dim": 64, "optim.name": "adamw",
            "optim.lr": 6e-3, "optim.weight_decay": 1e-4, "optim.schedule": "cosine", "optim.warmup_epochs": 0.5, "train.steps": 300,
            "eval.every_epochs": 2,
        },
        {"view": replace(VIEWS["view"], crop=(0.6, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8)},
    ),
}  # fmt: skip


class InvaSpread(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.head = nn.Linear(self.out_dim, config.dim)

    def negatives(self, batch: int) -> int:
        return 2 * (batch - 1)

    def embedding(self, features: Tensor) -> Tensor:
        return normalize(self.head(features))  # (B, D)

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        h = self.backbone(batch.crops("view"))  # (2B, F)
        return {"h": h.unflatten(0, (2, -1)).transpose(0, 1)}  # (B, 2, F)

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        z = normalize(self.head(reps["h"]))  # (B, 2, D)
        loss, accuracy = spreading(z[:, 0], z[:, 1], self.config.temperature, batch.slot, batch.size)
        return {"loss": loss, "contrast_top1": accuracy}


@precise
def spreading(a: Tensor, b: Tensor, temperature: float, slot: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """-log P(own) - sum over others of log(1 - P(other)) (eq. 4 to 7), the mean over the 2N rows; this rank's shares of loss and accuracy.

    a, b: (B, D), L2-normalised. Gradients flow through the rows alone, not through what they are compared with.
    """
    keys = torch.cat([gather(a.detach(), size), gather(b.detach(), size)])  # (2N, D)
    own, positive = torch.cat([slot, slot + size]), torch.cat([slot + size, slot])  # (2B,)
    loss, found = tiled(_spreading, (torch.cat([a, b]), own, positive), (keys, temperature), len(keys))
    return loss / (2 * size), found / (2 * size)


def _spreading(rows: Tensor, own: Tensor, positive: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The sum over rows (R, D), each compared with the keys (2N, D)."""
    logits = (rows / temperature) @ keys.T  # (R, 2N)
    logs = logits.scatter(1, own[:, None], -torch.inf).log_softmax(1)  # (R, 2N)
    others = torch.ones_like(logs, dtype=torch.bool).scatter(1, positive[:, None], False)
    spread = torch.where(others, torch.log1p(-logs.exp().clamp(max=1 - 1e-7)), 0.0).sum(1)
    return -(logs.gather(1, positive[:, None])[:, 0] + spread).sum(), hits(logs, positive)
