"""DeepCluster v2: DeepCluster with the improvements that SwAV's paper describes.

Caron et al., NeurIPS 2020, https://arxiv.org/abs/2006.09882, appendix C (code: facebookresearch/swav, `main_deepclusterv2.py`).
Every crop is told which cluster its image belonged to, among the centroids of several spherical k-means over last epoch's features.

B batch rows, N rows of the global batch, V crops, F backbone features, D projected features, K prototypes, H heads
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Clock, Limit, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import encode_crops, kmeans, mlp, normalize, precise, whiten
from ._ranks import from_first, gather
from ._recipes import ONE_BATCH, SOLO_DIFFERS, SOLO_LARS, SOLO_LEARN

PAPER = Paper(
    title="Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (appendix C: DeepCluster-v2)",
    year=2020,
    url="https://arxiv.org/abs/2006.09882",
    contrasts="a crop with the clusters of its image in the last epoch",
    crops="2 + 6 small",
)
METRICS = {
    "loss": "cross-entropy of each crop with the cluster of its image in the last epoch, mean over crops and heads; log K at chance",
    "cluster_top1": "share of crops that are nearest to the prototype of their image's cluster",
}
DIFFERS = (
    "the first clusters are of whitened backbone features; the release's are of the untrained projector's output",
    "method.output_norm, none in the paper, is batch norm in the presets of a few hundred steps",
    SOLO_DIFFERS,
    ONE_BATCH,
    "cifar: solo-learn's first epoch has no clusters and trains nothing",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.1, "temperature of the predictions", gt=0)
    prototypes: int = setting(3000, "K, clusters of each head; at most the samples", unit="clusters", ge=2)
    heads: int = setting(3, "H, clusterings of the same features from different starts", unit="heads", ge=1)
    iterations: int = setting(10, "k-means iterations per epoch", ge=1)
    hidden: int = setting(2048, "width of the projector's hidden layer", unit="features", ge=1)
    dim: int = setting(128, "width of the projected space", unit="features", ge=1)
    output_norm: Literal["none", "bn"] = setting(
        "none", "norm of the projector's output (paper: none); runs of a few hundred steps need bn"
    )


LARGE = View(
    count=2, crop=(0.14, 1.0), interpolation="antialiased", jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray=0.2, blur=0.5
)
VIEWS = {"large": LARGE, "small": replace(LARGE, size=96, count=6, crop=(0.05, 0.14))}

RECIPE = {  # as SwAV's
    "backbone.name": "resnet50",
    "augment.std": (0.228, 0.224, 0.225),  # as released
    "optim.name": "larc",
    "optim.lr": 0.3,
    "optim.lr_end": 0.001,
    "optim.weight_decay": 1e-6,
    "optim.warmup_epochs": 10,
    "optim.warmup_start": 0.0625,
    "optim.schedule": "cosine",
    "train.batch_size": 4096,
    "train.epochs": 800,
    "train.norm_groups": 8,
}


def small(**changes: Any) -> View:
    return replace(LARGE, size=32, interpolation="linear", blur=0.0, **changes)


DIGITS = {
    "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "method.prototypes": 60, "method.hidden": 128,
    "method.dim": 64, "method.temperature": 0.2, "method.output_norm": "bn", "optim.name": "adamw", "optim.lr": 3e-3, "optim.weight_decay": 1e-4,
    "optim.warmup_epochs": 0.5, "optim.warmup_start": 0.0, "train.batch_size": 64, "train.norm_groups": 1, "train.steps": 600,
    "eval.every_epochs": 2,
}  # fmt: skip
DIGITS_VIEW = small(jitter=(0.2, 0.2, 0.2, 0.05), crop=(0.8, 1.0), flip=0.0)  # a mirrored 2 is no digit

PRESETS = {
    "paper": Preset("ResNet-50, batch 4096, 2 x 224 + 6 x 96 px, 800 epochs: 75.2 % linear on ImageNet"),
    "cifar": Preset(
        f"two crops: {SOLO_LEARN.format('88.85')}",
        SOLO_LARS | {"optim.lr": 0.6, "optim.lr_end": 0.001, "optim.warmup_epochs": 11, "optim.warmup_start": 0.0, "optim.weight_decay": 1e-6},
        {"large": replace(LARGE, size=32, crop=(0.08, 1.0), interpolation="cubic")},
    ),
    "cifar_short": Preset("CIFAR's images in runs of a few hundred steps, two crops: a residual net of width 16, batch 64, 600 steps", DIGITS,
                          {"large": small(jitter=(0.4, 0.4, 0.4, 0.1), crop=(0.3, 1.0))}),
    "digits": Preset("the built-in digits, two crops: a residual net of width 16, batch 64, 600 steps", DIGITS, {"large": DIGITS_VIEW}),
    "digits_multicrop": Preset("the digits with four small crops besides", DIGITS,
                               {"large": DIGITS_VIEW, "small": replace(DIGITS_VIEW, size=20, count=4, crop=(0.3, 0.6))}),
}  # fmt: skip


class DeepClusterV2(Method):
    bank: Tensor
    prototypes: Tensor
    assignments: Tensor
    begun: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.projector = mlp(self.out_dim, config.hidden, config.dim, last_norm=config.output_norm)
        self.register_buffer("bank", torch.zeros(2, samples, config.dim))  # each large crop's features: (2, dataset, D)
        self.register_buffer("prototypes", torch.zeros(config.heads, config.prototypes, config.dim))  # (H, K, D), never trained
        self.register_buffer("assignments", torch.zeros(config.heads, samples, dtype=torch.long))  # (H, dataset)
        self.register_buffer("begun", torch.tensor(False))

    @classmethod
    def limits(cls, config: Config, *, samples: int, batch: int) -> Mapping[str, Limit]:
        return {"prototypes": Limit(2, samples, "", "the training samples", max(samples // 10, 8))}

    @torch.no_grad()
    def begin_epoch(self, clock: Clock, embed: Callable[[], Tensor]) -> Iterable[nn.Parameter]:
        """Clusters last epoch's features; before the first epoch, those of the untrained network."""
        if not self.begun:
            features = embed()  # (dataset, F) on rank 0
            self.bank.copy_(from_first(lambda: [self.first_features(features)], [self.bank])[0])
            self.begun.fill_(True)
        for head in range(self.config.heads):  # each head clusters one crop's features, in turn

            def cluster(head: int = head) -> tuple[Tensor, Tensor]:
                options = {"spherical": True, "split_empty": False}
                seed = clock.step * self.config.heads + head
                return kmeans(self.bank[head % 2], self.config.prototypes, self.config.iterations, seed, **options)

            centroids, assigned = from_first(cluster, [self.prototypes[head], self.assignments[head]])
            self.prototypes[head], self.assignments[head] = centroids, assigned
        return ()

    def first_features(self, features: Tensor) -> Tensor:
        """(2, dataset, D) whitened features of the untrained backbone (as released: projections, which have little but their mean)."""
        z = whiten(features.to(self.bank), self.config.dim)  # (dataset, D), or as many directions as there are features
        return F.pad(z, (0, self.config.dim - z.shape[1])).expand_as(self.bank).contiguous()

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return encode_crops(self.backbone, batch, "large", "small")

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        h = torch.cat([reps[name] for name in reps], 1).transpose(0, 1)  # (V, B, F), the large crops first
        z = normalize(self.projector(h.flatten(0, 1))).unflatten(0, h.shape[:2])  # (V, B, D)
        reps |= {"rows": gather(z[:2].detach().transpose(0, 1), batch.size), "index": gather(batch.index, batch.size)}
        targets = self.assignments[:, batch.index]  # (H, B)
        loss, accuracy = classify(z, self.prototypes, targets, self.config.temperature, batch.size)
        return {"loss": loss, "cluster_top1": accuracy}

    @torch.no_grad()
    def prototype_scores(self, features: Tensor) -> Tensor:
        """Of the first head."""
        return normalize(self.projector(features)) @ self.prototypes[0].T  # (B, K)

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        self.bank[:, reps["index"]] = reps["rows"].transpose(0, 1).to(self.bank.dtype)  # (2, N, D)


@precise
def classify(z: Tensor, prototypes: Tensor, targets: Tensor, temperature: float, size: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every crop of z (V, B, D) with its image's cluster `targets` (H, B) among prototypes (H, K, D).

    The mean over heads, crops and the global batch, and the share that is nearest to its own cluster: this rank's shares.
    """
    logits = torch.einsum("vbd,hkd->hvbk", z, prototypes.to(z.dtype)) / temperature  # (H, V, B, K)
    own = targets[:, None].expand(-1, len(z), -1)  # (H, V, B)
    total = size * len(z) * len(prototypes)
    hits = (logits.detach().argmax(-1) == own).sum().to(logits.dtype)
    return F.cross_entropy(logits.flatten(0, 2), own.flatten(), reduction="sum") / total, hits / total
