"""A nearest-centroid classifier: an evaluation of one's own, in one file.

contray eval docs/examples/nearest_centroid.py --run RUN_ID --metric euclidean
contray train --eval.online knn geometry docs/examples/nearest_centroid.py --eval.final knn docs/examples/nearest_centroid.py
contray tune simclr --metric nearest_centroid_val_top1 --eval.final docs/examples/nearest_centroid.py

An installed package offers it by name: [project.entry-points."contray.evaluations"] nearest_centroid = "your_package.nearest_centroid"
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from contray.evaluation import Citation, Measured, Subject, setting

ABOUT = "the class of the nearest mean of training features, beside the untrained encoder and raw pixels"
PAPER = Citation("Prototypical Networks for Few-shot Learning", 2017, "https://arxiv.org/abs/1703.05175")
NEEDS = ("labels",)
METRICS = ("nearest_centroid_val_top1",)


@dataclass(frozen=True)
class Config:
    """Keys eval.nearest_centroid.*."""

    metric: Literal["cosine", "euclidean"] = setting("cosine", "how near a feature is to a centroid")
    shrink: float = setting(0.0, "how far centroids move to the mean of all", unit="fraction", ge=0, le=1)


def evaluate(subject: Subject, options: Config) -> Measured:
    """nearest_centroid_val_top1 of held-out images and, where the test set is opened, nearest_centroid_top1; of each encoder by its prefix."""
    found = {}
    for encoder in subject.encoders:
        parts = subject.features(encoder)
        for name, asked in (("val_top1", parts.val), ("top1", parts.test)):
            if asked is not None:
                nearest = classify(parts.fit.x, parts.fit.y, asked.x, subject.classes, options)
                found[f"{encoder}nearest_centroid_{name}"] = (nearest == asked.y).double().mean().item()
    return Measured(found)


def classify(x: Tensor, y: Tensor, queries: Tensor, classes: int, options: Config) -> Tensor:
    """(M,) classes of queries (M, D), from features x (N, D) of classes y (N,)."""
    if options.metric == "cosine":
        x, queries = F.normalize(x, dim=1), F.normalize(queries, dim=1)
    sums = x.new_zeros(classes, x.shape[1]).index_add_(0, y, x)  # (C, D)
    counts = torch.bincount(y, minlength=classes)[:, None]  # (C, 1)
    centroids = torch.lerp(sums / counts.clamp_min(1), x.mean(0), options.shrink)  # (C, D)
    centroids[counts[:, 0] == 0] = torch.inf  # a class without images is near to nothing
    return torch.cdist(queries, centroids).argmin(1)
