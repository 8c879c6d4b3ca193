"""Alignment and uniformity: a method of one's own, in one file.

Wang & Isola, ICML 2020, https://arxiv.org/abs/2005.10242 (§5): views of an image lie near each other on the sphere, and all images spread over it.

contray check align_uniform.py                    is it right, also on several workers?
contray train align_uniform.py                    the built-in digits, two minutes on two cores
contray train align_uniform.py --data.source DIR  your images

B rows of this worker, N rows of the global batch, F backbone features, D projected features
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from contray.methods import (
    Batch,
    Clock,
    Method,
    MethodConfig,
    Paper,
    Preset,
    Reps,
    View,
    gather,
    mlp,
    normalize,
    setting,
    world_size,
)

PAPER = Paper(  # what `contray methods align_uniform.py` shows
    title="Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere",
    year=2020,
    url="https://arxiv.org/abs/2005.10242",
    contrasts="two views of an image attract each other, all images of the batch repel each other",
    negatives="batch",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    """Keys of your own: --method.alpha 1. Schedules are functions of the clock, not of what was counted on the way."""

    alpha: float = setting(2.0, "power of the distance of two views (§5)", gt=0)
    t: float = setting(2.0, "sharpness of the Gaussian potential (§5)", gt=0)
    weight: float = setting(1.0, "weight of uniformity", ge=0)
    projector_hidden: int = setting(512, "width of the projector's hidden layer", unit="features", ge=1)
    projector_dim: int = setting(128, "width of the projected space", unit="features", ge=1)


# What is drawn of each image: here two views, which `batch.crops("view")` stacks; further entries have sizes and policies of their own
VIEWS = {"view": View(count=2, crop=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2, blur=0.5)}

RECIPE = {  # keys of the config (contray train --help-all) for a run without a preset
    "backbone.name": "resnet50",
    "optim.name": "sgd",
    "optim.lr": 0.12,
    "optim.weight_decay": 1e-4,
    "train.batch_size": 256,
    "train.epochs": 200,
}

SMALL_VIEW = replace(VIEWS["view"], size=32, blur=0.0)
PRESETS = {  # settings on top of the recipe; `digits` is what `contray check` tries
    "paper": Preset("ResNet-50, batch 256, 200 epochs"),
    "cifar": Preset("ResNet-18 with a 3x3 stem", {"backbone.name": "resnet18", "backbone.stem": "cifar"}, {"view": SMALL_VIEW}),
    "digits": Preset(
        "the built-in digits in two minutes on two cores",
        {
            "backbone.name": "resnet_small",
            "backbone.stem": "cifar",
            "backbone.width": 16,
            "method.projector_hidden": 128,
            "method.projector_dim": 64,
            "optim.name": "adamw",
            "optim.lr": 6e-3,
            "optim.warmup_epochs": 0.5,
            "train.batch_size": 128,
            "train.steps": 300,
            "eval.every_epochs": 2,
        },
        {"view": replace(SMALL_VIEW, crop=(0.6, 1.0), flip=0.0)},
    ),
}


class AlignUniform(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)  # self.backbone: images (B, 3, H, W) -> (B, F), F = self.out_dim
        self.projector = mlp(self.out_dim, config.projector_hidden, config.projector_dim)
        # An average network: copy.deepcopy(self.backbone).requires_grad_(False), then ema_pairs() and ema_momentum()
        # What it remembers (a queue, a centre): self.register_buffer("queue", ...), which `update` alone writes

    def negatives(self, batch: int) -> int:
        return batch - 1

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        """The backbone, each row by itself: it may run in chunks, and again. Draws come from batch.rand(name, shape)."""
        h = self.backbone(batch.crops("view"))  # (2B, F)
        return {"view": h.unflatten(0, (2, -1)).transpose(0, 1)}  # (B, 2, F): the first axis is the rows

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The workers' losses are summed: own rows are divided by batch.size, what all compute alike by world_size()."""
        h = reps["view"].transpose(0, 1)  # (2, B, F)
        x, y = normalize(self.projector(h.flatten(0, 1))).unflatten(0, (2, -1))  # (B, D) each
        align = (x - y).norm(dim=1).pow(self.config.alpha).sum() / batch.size
        # rows of all workers, in the batch's order; the gradient flows back to them
        uniform = (self.potential(gather(x, batch.size)) + self.potential(gather(y, batch.size))) / 2 / world_size()
        return {"loss": align + self.config.weight * uniform, "align": align, "uniform": uniform}  # all are logged

    def potential(self, z: Tensor) -> Tensor:
        """() the logarithm of the mean Gaussian potential of pairs of N rows: (N, D) on the sphere."""
        return torch.pdist(z).square().mul(-self.config.t).exp().mean().log()
