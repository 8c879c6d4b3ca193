"""DeepCluster v1: Deep Clustering for Unsupervised Learning of Visual Features.

Caron, Bojanowski, Joulin & Douze, ECCV 2018, https://arxiv.org/abs/1807.05520 (code: facebookresearch/deepcluster).
Each epoch the network's own features are clustered, and a fresh classifier learns to tell the clusters.

B batch rows, N_d samples of the data set, F backbone features, K clusters
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Clock, Limit, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import kmeans, precise, whiten
from ._ranks import from_first, full

PAPER = Paper(
    title="Deep Clustering for Unsupervised Learning of Visual Features",
    year=2018,
    url="https://arxiv.org/abs/1807.05520",
    contrasts="an image with its cluster in this epoch",
    crops="1",
)
METRICS = {
    "loss": "cross-entropy with this epoch's clusters, weighted by cluster; log of method.clusters at chance, back up whenever the classifier is drawn anew (each epoch)",
    "cluster_top1": "share of images that the classifier puts into their cluster",
}
DIFFERS = (
    "a cluster's weight in the loss stands for drawing images uniformly over clusters: the same expectation, in an order that is known beforehand",
    "AlexNet's dropout is left out; the paper's 41.0 % is a probe on its third convolution, of ten crops, and its best epoch on the test set: eval layers",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    clusters: int = setting(10000, "K (§4.1: ten times the classes and more); at most the samples", unit="clusters", ge=2)
    pca: int = setting(256, "directions that whitening keeps (§3.3); at most the backbone's features", unit="features", ge=1)
    iterations: int = setting(20, "k-means iterations per epoch", ge=1)
    input: Literal["sobel", "rgb"] = setting("sobel", "Sobel gradients (§3.3) or colours (table 1) as the network's input")


VIEWS = {"view": View(crop=(0.08, 1.0), interpolation="antialiased")}

RECIPE = {
    "backbone.name": "alexnet",
    "optim.name": "sgd",
    "optim.lr": 0.05,
    "optim.weight_decay": 1e-5,
    "optim.schedule": "constant",
    "train.batch_size": 256,
    "train.epochs": 500,
}

PRESETS = {
    "paper": Preset("AlexNet with batch norm on Sobel gradients, 500 epochs: 41.0 % linear on ImageNet from its third convolution"),
    "v1": Preset("the same as paper"),
    "cifar": Preset(
        "ResNet-18 with a 3x3 stem, 500 clusters",
        {"backbone.name": "resnet18", "backbone.stem": "cifar", "method.clusters": 500, "train.epochs": 200},
        {"view": View(size=32, crop=(0.2, 1.0))},
    ),
    "digits": Preset(
        "the built-in digits: a residual net of width 16, batch 64, 600 steps",
        {"backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "method.clusters": 60, "method.pca": 32,
         "optim.name": "adamw", "optim.lr": 4e-3, "optim.weight_decay": 1e-4, "optim.schedule": "cosine", "optim.warmup_epochs": 0.5,
         "train.batch_size": 64, "train.steps": 600, "eval.every_epochs": 2},
        {"view": View(size=32, crop=(0.6, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8)},
    ),
}  # fmt: skip


class DeepCluster(Method):
    assignments: Tensor
    weights: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, lambda: backbone(2) if config.input == "sobel" else backbone(), samples)
        self.classifier = nn.Linear(self.out_dim, config.clusters)
        self.register_buffer("assignments", torch.zeros(samples, dtype=torch.long))  # (N_d,)
        self.register_buffer("weights", torch.zeros(config.clusters))  # (K,) as if clusters were drawn alike

    @classmethod
    def limits(cls, config: Config, *, samples: int, batch: int) -> Mapping[str, Limit]:
        return {"clusters": Limit(2, samples, "", "the training samples", max(samples // 10, 8))}

    def param_groups(self) -> list[dict[str, Any]]:
        head = list(self.classifier.parameters())  # the head's own optimiser: no momentum, new in each epoch
        return [{"params": [p for p in self.backbone.parameters() if p.requires_grad]}, {"params": head, "momentum": 0.0}]

    @torch.no_grad()
    def begin_epoch(self, clock: Clock, embed: Callable[[], Tensor]) -> Iterable[nn.Parameter]:
        """Clusters the features of all samples (§3.2) and draws a new classifier, since cluster numbers mean nothing (§3.3)."""
        features = embed()  # (N_d, F) on rank 0

        def cluster() -> list[Tensor]:
            whitened = whiten(full(features), self.config.pca)  # (N_d, P)
            return [kmeans(whitened, self.config.clusters, self.config.iterations, clock.step)[1].to(self.assignments)]

        (assigned,) = from_first(cluster, [self.assignments])
        self.assignments.copy_(assigned)
        counts = torch.bincount(assigned, minlength=self.config.clusters)  # (K,)
        self.weights.copy_(len(assigned) / (counts.clamp(min=1) * (counts > 0).sum()))
        return self.drawn(clock)

    def drawn(self, clock: Clock) -> Iterable[nn.Parameter]:
        """The classifier's weights, drawn anew."""
        draw = torch.randn(self.classifier.weight.shape, generator=torch.Generator().manual_seed(clock.step))
        self.classifier.weight.copy_(0.01 * draw)
        self.classifier.bias.zero_()
        return self.classifier.parameters()

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {"h": self.features(batch.views["view"])}  # (B, F)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, F)"""
        return self.backbone(sobel(images) if self.config.input == "sobel" else images)

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        own = self.assignments[batch.index]  # (B,)
        loss, accuracy = classify(self.classifier(reps["h"].relu()), own, self.weights, batch.size)
        return {"loss": loss, "cluster_top1": accuracy}

    @torch.no_grad()
    def prototype_scores(self, features: Tensor) -> Tensor:
        """Log-probabilities of this epoch's clusters: logits would rank images by the length of their features."""
        return self.classifier(features.relu()).log_softmax(1)  # (B, K)

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.features(inputs["image"])  # (B, F)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"backbone": self.features(inputs["image"])}


def sobel(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 2, H, W): differences of the mean channel across and down (§3.3)."""
    line = torch.arange(-1, 2, device=images.device, dtype=images.dtype)
    across = (2 - line.abs())[:, None] * -line  # 1 0 -1, 2 0 -2, 1 0 -1, without a copy, which would wait for the device
    return F.conv2d(images.mean(1, keepdim=True), torch.stack([across, across.T])[:, None], padding=1)


@precise
def classify(logits: Tensor, own: Tensor, weights: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy (eq. 1) of (B, K) logits with the clusters `own` (B,), weighted by cluster; this rank's shares of loss and accuracy.

    Weights of N_d / (K |cluster|) stand for the paper's sampling of images uniformly over clusters (§3.3).
    """
    wide = full(logits)
    loss = (F.cross_entropy(wide, own, reduction="none") * weights[own].to(wide.dtype)).sum() / size
    return loss, (wide.detach().argmax(1) == own).to(wide.dtype).sum() / size
