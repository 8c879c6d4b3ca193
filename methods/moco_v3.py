"""MoCo v3: An Empirical Study of Training Self-Supervised Vision Transformers.

Chen, Xie & He, ICCV 2021, https://arxiv.org/abs/2104.02057 (code: facebookresearch/moco-v3).
MoCo without its queue: a predicted query is told from the keys of the batch, which a slow copy of the encoder computed. On a ViT the
patch projection stays frozen (§4.2).

B batch rows, N rows of the global batch, F backbone features, D projected features
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import cosine, mlp, normalize, precise
from ._ranks import gather
from ._recipes import SOLO_DIFFERS, SOLO_LARS, SOLO_LEARN, SOLO_START
from ._similarity import identify

PAPER = Paper(
    title="An Empirical Study of Training Self-Supervised Vision Transformers",
    year=2021,
    url="https://arxiv.org/abs/2104.02057",
    contrasts="a predicted query against the keys of the batch",
    negatives="batch",
    ema="cosine to 1",
    predictor="yes",
)
METRICS = {
    "loss": "InfoNCE of a prediction among the keys of the global batch, times 2 temperature, both directions summed",
    "contrast_top1": "share of predictions whose own key is the nearest of the batch",
}
DIFFERS = (
    "vit_*: the class token begins at 0.02, the release's at 1e-6",
    SOLO_DIFFERS,
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(1.0, "temperature of InfoNCE (ResNet: 1.0, ViT: 0.2)", gt=0)
    momentum: float = setting(0.99, "momentum of the key encoder at the start; it rises to 1 (§3)", ge=0, le=1)
    layers: Literal["2", "3"] = setting("2", "layers of the projector (ResNet: 2, ViT: 3)")
    hidden: int = setting(4096, "width of the hidden layers of projector and predictor", unit="features", ge=1)
    dim: int = setting(256, "width of the projected space", unit="features", ge=1)
    predictor_norm: Literal["none", "bn_plain"] = setting("none", "norm of the predictor's output (ResNet: none, ViT: bn_plain)")


_VIEW = View(crop=(0.2, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray=0.2, interpolation="antialiased")  # as BYOL
VIEWS = {"first": replace(_VIEW, blur=1.0), "second": replace(_VIEW, blur=0.1, solarize=0.2)}

RECIPE = {
    "backbone.name": "resnet50",
    "backbone.zero_init_residual": True,
    "optim.name": "lars",
    "optim.lr": 0.6,
    "optim.weight_decay": 1e-6,
    "optim.warmup_epochs": 10,
    "optim.schedule": "cosine",
    "train.batch_size": 4096,
    "train.epochs": 100,
}
VIT = {
    "backbone.zero_init_residual": False, "backbone.positions": "sincos", "backbone.frozen_patches": True, "method.temperature": 0.2,
    "method.layers": "3", "method.predictor_norm": "bn_plain", "optim.name": "adamw", "optim.lr": 1.5e-4, "optim.weight_decay": 0.1, "optim.warmup_epochs": 40,
    "train.epochs": 300, "train.channels_last": False,
}  # fmt: skip
DIGITS = {
    "backbone.zero_init_residual": False, "method.temperature": 0.2, "method.momentum": 0.5, "method.hidden": 128, "method.dim": 64,
    "optim.name": "adamw", "optim.lr": 8e-3,
    "optim.weight_decay": 1e-4, "optim.warmup_epochs": 0.5, "train.batch_size": 64, "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip


def both(**changes: Any) -> dict[str, View]:
    return {name: replace(view, **changes) for name, view in VIEWS.items()}


NET = {"backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16}
SMALL = {"size": 32, "blur": 0.0, "interpolation": "linear"}
DIGITS_VIEWS = both(**SMALL | {"crop": (0.8, 1.0), "flip": 0.0, "jitter": (0.2, 0.2, 0.2, 0.05), "solarize": 0.0})
PRESETS = {
    "paper": Preset("ResNet-50, batch 4096, 100 epochs: 68.9 % linear on ImageNet (74.6 % after 1000)"),
    "vit_s": Preset("ViT-S of 12 heads, 300 epochs: 73.2 % linear on ImageNet", VIT | {"backbone.name": "vit_small"}, both(crop=(0.08, 1.0))),
    "vit_b": Preset("ViT-B, 300 epochs: 76.7 % linear on ImageNet", VIT | {"backbone.name": "vit_base"}, both(crop=(0.08, 1.0))),
    "cifar": Preset(
        SOLO_LEARN.format("93.10"),
        SOLO_LARS | {"method.temperature": 0.2, "optim.lr": 0.3, "optim.warmup_start": SOLO_START / 0.3, "optim.weight_decay": 1e-6},
        both(size=32, blur=0.0, crop=(0.08, 1.0), interpolation="cubic"),
    ),
    "cifar_short": Preset("CIFAR's images in runs of a few hundred steps: a residual net of width 16, batch 64, 600 steps", DIGITS | NET, both(**SMALL)),
    "digits": Preset("the built-in digits: a residual net of width 16, batch 64, 600 steps", DIGITS | NET, DIGITS_VIEWS),
    "digits_vit": Preset("the digits on a small ViT with frozen patches of 4 px",
                         VIT | DIGITS | {"backbone.name": "vit_mini", "backbone.width": 64, "backbone.patch": 4, "optim.lr": 2e-3}, DIGITS_VIEWS),
}  # fmt: skip


class MoCoV3(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        hidden = [config.hidden] * (int(config.layers) - 1)
        self.projector = mlp(self.out_dim, *hidden, config.dim, last_norm="bn_plain")
        self.predictor = mlp(config.dim, config.hidden, config.dim, last_norm=config.predictor_norm, last_bias=False)
        self.key_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if self.config.predictor_norm == "none":
            state_dict.pop(f"{prefix}predictor.3.bias", None)  # of runs from before; no release has one
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def negatives(self, batch: int) -> int:
        return batch - 1

    def ema_pairs(self):
        yield self.backbone, self.key_backbone
        yield self.projector, self.key_projector

    def ema_momentum(self, clock: Clock) -> float:
        return cosine(self.config.momentum, 1.0, clock.fraction)

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        views = (batch.views["first"], batch.views["second"])
        queries = {f"query{i}": self.backbone(view) for i, view in enumerate(views)}  # (B, F) each
        with torch.no_grad():
            keys = {f"key{i}": self.key_backbone(view) for i, view in enumerate(views)}  # (B, F) each
        return queries | keys

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        q0, q1 = (self.predictor(self.projector(reps[name])) for name in ("query0", "query1"))  # (B, D)
        with torch.no_grad():
            k0, k1 = (gather(self.key_projector(reps[name]), batch.size) for name in ("key0", "key1"))  # (N, D)
        terms = [contrast(q, k, self.config.temperature, batch.slot, batch.size) for q, k in ((q0, k1), (q1, k0))]
        (loss0, accuracy0), (loss1, accuracy1) = terms
        return {"loss": loss0 + loss1, "contrast_top1": (accuracy0 + accuracy1) / 2}


@precise
def contrast(query: Tensor, keys: Tensor, temperature: float, slot: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries (B, D) among the keys (N, D) of the global batch (algorithm 1), times 2T; this rank's shares of loss and accuracy."""
    loss, found = identify(normalize(query), normalize(keys), slot, temperature)
    return 2 * temperature * loss / size, found / size
