"""SimCLR v1: A Simple Framework for Contrastive Learning of Visual Representations.

Chen, Kornblith, Norouzi & Hinton, ICML 2020, https://arxiv.org/abs/2002.05709 (code: google-research/simclr).
Two augmentations of one image attract each other in a projected space and repel every other image of the batch.

B batch rows, V crops, F backbone features, D projected features
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import encode_crops, mlp, normalize, nt_xent
from ._recipes import LIGHTLY, LIGHTLY_DIFFERS, LIGHTLY_SGD, ONE_BATCH, SOLO_DIFFERS, SOLO_LARS, SOLO_LEARN, SOLO_START

PAPER = Paper(
    title="A Simple Framework for Contrastive Learning of Visual Representations",
    year=2020,
    url="https://arxiv.org/abs/2002.05709",
    contrasts="two views of an image against all other images of the batch",
    negatives="batch",
)
METRICS = {
    "loss": "NT-Xent of a view with its partner among the other 2N - 1 views of the global batch; log(2N - 1) at chance",
    "contrast_top1": "share of views whose partner is the nearest of all others of the batch",
}
DIFFERS = (
    "the loss is the mean over all anchors; the release sums its two directions, which is twice this: under LARS norms and biases take half its steps, "
    "and the share of the decay is twice its",
    "the release's blur pads with zeros, its pixels are not normalised, and its convolutions begin smaller (fan-in, gain 1)",
    SOLO_DIFFERS,
    LIGHTLY_DIFFERS,
    ONE_BATCH,
    "cifar_lightly: the norm of the projector's output has no shift",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.1, "temperature of NT-Xent (§2.1, table 5)", gt=0)
    projector_hidden: int = setting(2048, "width of the projector's hidden layer (§4.2)", unit="features", ge=1)
    projector_dim: int = setting(128, "width of the projected space (§4.2: it hardly matters)", unit="features", ge=1)
    projector_norm: Literal["bn", "ln", "gn", "none"] = setting(
        "bn", "norm after each layer of the projector; with none here and in the backbone SimCLR fails as BYOL does"
    )


VIEWS = {  # appendix A, colour strength 1; the blur's kernel is a tenth of the image's side
    "view": View(count=2, crop=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, jitter_as="added", gray=0.2, blur=0.5, interpolation="cubic"),
}  # fmt: skip

RECIPE = {
    "backbone.name": "resnet50",
    "backbone.zero_init_residual": True,
    "optim.name": "lars",
    "optim.rate_in_velocity": True,
    "optim.lr": 0.3,
    "optim.weight_decay": 1e-6,
    "optim.warmup_epochs": 10,
    "optim.schedule": "cosine",
    "train.batch_size": 4096,
    "train.epochs": 1000,
}

# appendix B.9: half the colour strength, no blur
CIFAR_VIEW = replace(
    VIEWS["view"], size=32, jitter_as="torchvision", jitter=(0.4, 0.4, 0.4, 0.1), blur=0.0, interpolation="linear"
)
DIGITS_VIEW = replace(CIFAR_VIEW, crop=(0.6, 1.0), flip=0.0)  # a mirrored 2 is no digit
SHORT = {
    "backbone.name": "resnet_small",
    "backbone.zero_init_residual": False,
    "backbone.stem": "cifar",
    "backbone.width": 16,
    "method.temperature": 0.2,
    "method.projector_hidden": 128,
    "method.projector_dim": 64,
    "optim.name": "adamw",
    "optim.rate_in_velocity": False,
    "optim.lr": 6e-3,
    "optim.weight_decay": 1e-4,
    "optim.warmup_epochs": 0.5,
    "train.batch_size": 128,
    "train.steps": 300,
    "eval.every_epochs": 2,
}

PRESETS = {
    "paper": Preset("ResNet-50, batch 4096, 1000 epochs: 69.3 % linear on ImageNet"),
    "multicrop": Preset(
        "paper with 4 more crops of 96 px, each contrasted with both large ones (as in SwAV's table 3): about 2.4 points more",
        views={
            "view": replace(VIEWS["view"], crop=(0.14, 1.0)),
            "small": replace(VIEWS["view"], size=96, count=4, crop=(0.05, 0.14)),
        },
    ),
    "cifar": Preset(
        SOLO_LEARN.format("90.74"),
        SOLO_LARS
        | {
            "method.temperature": 0.2,
            "method.projector_dim": 256,
            "method.projector_norm": "none",
            "optim.lr": 0.4,
            "optim.rate_in_velocity": False,
            "optim.warmup_start": SOLO_START / 0.4,
            "optim.weight_decay": 1e-4,
        },
        {"view": replace(VIEWS["view"], size=32, jitter_as="torchvision")},
    ),
    "cifar_lightly": Preset(
        LIGHTLY.format("84.8", 87),
        LIGHTLY_SGD | {"method.temperature": 0.5, "method.projector_hidden": 512, "optim.rate_in_velocity": False},
        {"view": CIFAR_VIEW},
    ),
    "cifar_short": Preset(
        "CIFAR's images in runs of a few hundred steps: a residual net of width 16, batch 128, 300 steps",
        SHORT,
        {"view": CIFAR_VIEW},
    ),
    "digits": Preset(
        "the built-in digits in two minutes on two cores: a residual net of width 16, batch 128, 300 steps",
        SHORT,
        {"view": DIGITS_VIEW},
    ),
    "multicrop_digits": Preset(
        "the digits with four small crops besides, each contrasted with both large ones",
        SHORT,
        {"view": DIGITS_VIEW, "small": replace(DIGITS_VIEW, size=20, count=4, crop=(0.3, 0.6))},
    ),
}


class SimCLR(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        norm = config.projector_norm  # on the output too, as released, there without a shift
        self.last_norm = "bn_scale" if norm == "bn" else norm
        self.projector = mlp(self.out_dim, config.projector_hidden, config.projector_dim, norm=norm, last_norm=self.last_norm)

    def negatives(self, batch: int) -> int:
        return 2 * (batch - 1)

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return encode_crops(self.backbone, batch, "view", "small")

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        z = [normalize(crop) for h in reps.values() for crop in self.project(h)]  # V of (B, D)
        pairs = [(i, j) for i in range(reps["view"].shape[1]) for j in range(i + 1, len(z))]  # a small crop meets large ones only
        terms = [nt_xent(z[i], z[j], self.config.temperature, batch.slot, batch.size) for i, j in pairs]
        loss, accuracy = (torch.stack(values).mean() for values in zip(*terms, strict=True))
        return {"loss": loss, "contrast_top1": accuracy}

    def project(self, h: Tensor) -> Tensor:
        """(B, V, F) -> (V, B, D)"""
        return self.projector(h.transpose(0, 1).flatten(0, 1)).unflatten(0, (h.shape[1], -1))
