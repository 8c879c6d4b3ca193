"""BYOL: Bootstrap Your Own Latent.

Grill et al., NeurIPS 2020, https://arxiv.org/abs/2006.07733 (code: deepmind-research/byol); without batch statistics: Richemond et al. 2020,
https://arxiv.org/abs/2010.10241. An online network predicts what its own slow average says of another view: no negatives.

B batch rows, F backbone features, D projected features
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import cosine, mlp, negative_cosine
from ._recipes import LIGHTLY, LIGHTLY_DIFFERS, LIGHTLY_SGD, SOLO_DIFFERS, SOLO_LARS, SOLO_LEARN, SOLO_START

PAPER = Paper(
    title="Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning",
    year=2020,
    url="https://arxiv.org/abs/2006.07733",
    contrasts="a view's prediction with the average network's projection of the other view",
    ema="cosine to 1",
    predictor="yes",
)
METRICS = {
    "loss": "2 - 2 cos of each prediction with the target's projection, both directions summed: 4 unrelated, 0 agreed; 0 within a few steps is collapse",
}
DIFFERS = (
    "method.output_norm, none in the paper, is batch norm in the presets of a few hundred steps",
    "as in the release, residual branches begin at zero; the paper's numbers are of networks where they do not, by its README without a change",
    "the last layers of projector and predictor have biases, and the target begins as a copy; the release's have none, and it is drawn by itself",
    SOLO_DIFFERS,
    LIGHTLY_DIFFERS,
)


@dataclass(frozen=True)
class Config(MethodConfig):
    momentum: float = setting(0.996, "momentum of the target network at the start; it rises to 1 (§3.2, appendix A)", ge=0, le=1)
    momentum_schedule: Literal["cosine", "constant"] = setting("cosine", "whether that momentum rises to 1, or stays")
    hidden: int = setting(4096, "width of the hidden layer of projector and predictor (§3.2)", unit="features", ge=1)
    dim: int = setting(256, "width of the projected space (§3.2)", unit="features", ge=1)
    projector_norm: Literal["bn", "ln", "gn", "none"] = setting("bn", "norm of the projector's hidden layer")
    output_norm: Literal["bn", "ln", "gn", "none"] = setting(
        "none", "norm of the projector's output (paper: none); runs of a few hundred steps need bn"
    )
    predictor_norm: Literal["bn", "ln", "gn", "none"] = setting("bn", "norm of the predictor's hidden layer")


_VIEW = View(crop=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray=0.2, jitter_as="added", interpolation="cubic")
VIEWS = {"first": replace(_VIEW, blur=1.0), "second": replace(_VIEW, blur=0.1, solarize=0.2)}  # appendix B, table 6

RECIPE = {
    "backbone.name": "resnet50",
    "backbone.zero_init_residual": True,
    "optim.name": "lars",
    "optim.lr": 0.2,
    "optim.weight_decay": 1.5e-6,
    "optim.warmup_epochs": 10,
    "optim.schedule": "cosine",
    "train.batch_size": 4096,
    "train.epochs": 1000,
}
SHORT = {"optim.lr": 0.3, "optim.weight_decay": 1e-6, "method.momentum": 0.99}
NO_BATCH = {"backbone.norm": "gn_ws", "method.projector_norm": "gn", "method.output_norm": "none", "method.predictor_norm": "gn"}
DIGITS = {
    "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "backbone.zero_init_residual": False,
    "method.momentum": 0.5, "method.hidden": 128, "method.dim": 64, "method.output_norm": "bn", "optim.name": "adamw",
    "optim.lr": 6e-3, "optim.weight_decay": 1e-4, "optim.warmup_epochs": 0.5,
    "train.batch_size": 64, "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip


def both(**changes: Any) -> dict[str, View]:
    return {
        name: replace(view, **{"size": 32, "blur": 0.0, "interpolation": "linear", "jitter_as": "torchvision"} | changes)
        for name, view in VIEWS.items()
    }


DIGITS_VIEWS = both(crop=(0.8, 1.0), flip=0.0, jitter=(0.2, 0.2, 0.2, 0.05), solarize=0.0)  # a mirrored 2 is no digit
PRESETS = {
    "paper": Preset("ResNet-50, batch 4096, 1000 epochs: 74.3 % linear on ImageNet"),
    "e300": Preset("300 epochs (appendix): 72.5 % linear on ImageNet", SHORT | {"train.epochs": 300}),
    "e100": Preset("100 epochs", SHORT | {"optim.lr": 0.45, "train.epochs": 100}),
    "gn_ws": Preset("no batch statistics anywhere: group norm and weight standardisation, 73.9 % where batch norm has 74.3 %", NO_BATCH),
    "cifar": Preset(
        SOLO_LEARN.format("92.58"),
        SOLO_LARS | {"method.momentum": 0.99, "optim.lr": 1.0, "optim.warmup_start": SOLO_START, "optim.weight_decay": 1e-5},
        both(interpolation="cubic"),
    ),
    "cifar_lightly": Preset(  # whose loss is a quarter of the paper's: so is the rate here, and the decay four times theirs
        LIGHTLY.format("86.8", 108),
        LIGHTLY_SGD | {"method.momentum": 0.99, "method.momentum_schedule": "constant", "method.hidden": 1024, "optim.lr": 0.03,
                       "optim.weight_decay": 2e-3},
        both(),
    ),
    "cifar_short": Preset("CIFAR's images in runs of a few hundred steps: a residual net of width 16, batch 64, 600 steps", DIGITS, both(crop=(0.2, 1.0))),
    "digits": Preset("the built-in digits: a residual net of width 16, batch 64, 600 steps", DIGITS, DIGITS_VIEWS),
    "digits_gn_ws": Preset("the digits without batch statistics", DIGITS | NO_BATCH, DIGITS_VIEWS),
}  # fmt: skip


class BYOL(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.projector = mlp(self.out_dim, config.hidden, config.dim, norm=config.projector_norm, last_norm=config.output_norm)
        self.predictor = mlp(config.dim, config.hidden, config.dim, norm=config.predictor_norm)
        self.target_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def ema_pairs(self):
        yield self.backbone, self.target_backbone
        yield self.projector, self.target_projector

    def ema_momentum(self, clock: Clock) -> float:
        start = self.config.momentum
        return start if self.config.momentum_schedule == "constant" else cosine(start, 1.0, clock.fraction)

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        views = (batch.views["first"], batch.views["second"])
        online = {f"online{i}": self.backbone(view) for i, view in enumerate(views)}  # (B, F) each
        with torch.no_grad():
            target = {f"target{i}": self.target_backbone(view) for i, view in enumerate(views)}  # (B, F) each
        return online | target

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        q0, q1 = (self.predictor(self.projector(reps[name])) for name in ("online0", "online1"))  # (B, D)
        with torch.no_grad():
            z0, z1 = (self.target_projector(reps[name]) for name in ("target0", "target1"))  # (B, D)
        cosines = negative_cosine(q0, z1, batch.size) + negative_cosine(q1, z0, batch.size)
        return {"loss": 4 * len(z0) / batch.size + 2 * cosines}  # 2 - 2 cos of each direction (eq. 2)
