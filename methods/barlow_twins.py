"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction.

Zbontar, Jing, Misra, LeCun & Deny, ICML 2021, https://arxiv.org/abs/2103.03230 (code: facebookresearch/barlowtwins).
Over a batch, each feature of one view should agree with the same feature of the other and with no other feature.

B batch rows, N rows of the global batch, F backbone features, D projected features
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import mlp, precise
from ._ranks import full, total, world_size
from ._recipes import LIGHTLY, LIGHTLY_DIFFERS, LIGHTLY_SGD, SOLO_DIFFERS, SOLO_LARS, SOLO_LEARN, SOLO_START

PAPER = Paper(
    title="Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
    year=2021,
    url="https://arxiv.org/abs/2103.03230",
    contrasts="features with features: their cross-correlation over the batch with the identity",
)
METRICS = {
    "loss": "method.loss_scale x (on_diagonal + method.redundancy x off_diagonal); falls throughout, and its size grows with the embedding's width",
    "on_diagonal": "how far each feature is from agreeing with itself in the other view: the sum of (1 - C_ii)^2; 0 is full agreement",
    "off_diagonal": "how far features repeat each other: the sum of the squared correlations C_ij; 0 is no redundancy",
}
DIFFERS = (
    "the loss has the gradient of the global batch; the release's all-reduce carries none, so that on W GPUs its gradient is 1/W of this. LARS makes up for "
    "that but for biases and norms: their rate in paper is the release's over 32, the paper's GPUs",
    SOLO_DIFFERS,
    LIGHTLY_DIFFERS,
)


@dataclass(frozen=True)
class Config(MethodConfig):
    redundancy: float = setting(0.0051, "lambda, the weight of the off-diagonal terms (eq. 1; the paper's text says 0.005)", gt=0)
    hidden: int = setting(8192, "width of the projector's hidden layers (§2.2)", unit="features", ge=1)
    dim: int = setting(8192, "width of the projected space (§2.2; figure 4: wider is better)", unit="features", ge=1)
    projector_layers: Literal["2", "3"] = setting("3", "layers of the projector (§2.2: 3)")
    bias_lr: float = setting(
        0.024, "rate of biases and norms (§2.2: 0.0048 where weights have 0.2)", unit="of the weights'", gt=0
    )
    loss_scale: float = setting(1.0, "factor of the loss; biases and norms feel it, and weights where optim.clip_lr does", gt=0)


_VIEW = View(crop=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray=0.2, interpolation="antialiased_cubic")
VIEWS = {"first": replace(_VIEW, blur=1.0), "second": replace(_VIEW, blur=0.1, solarize=0.2)}  # §2.2: as BYOL

RECIPE = {
    "backbone.name": "resnet50",
    "backbone.zero_init_residual": True,
    "method.bias_lr": 0.024 / 32,  # the release's gradient is that of one of 32 GPUs
    "optim.name": "lars",
    "optim.lr": 0.2,
    "optim.weight_decay": 1.5e-6,
    "optim.warmup_epochs": 10,
    "optim.schedule": "cosine",
    "optim.lr_end": 0.001,
    "train.batch_size": 2048,
    "train.epochs": 1000,
}


def both(**changes: Any) -> dict[str, View]:
    return {name: replace(view, **{"size": 32, "blur": 0.0, "interpolation": "linear"} | changes) for name, view in VIEWS.items()}


SHORT = {
    "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "backbone.zero_init_residual": False, "method.hidden": 256,
    "method.dim": 128, "method.redundancy": 0.02, "method.bias_lr": 1.0, "optim.name": "adamw", "optim.lr": 4e-3, "optim.weight_decay": 1e-4,
    "optim.warmup_epochs": 0.5, "train.batch_size": 64, "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip
WIDE = {"method.hidden": 2048, "method.dim": 2048, "method.bias_lr": 1.0}

PRESETS = {
    "paper": Preset("ResNet-50, batch 2048, 1000 epochs: 73.2 % linear on ImageNet"),
    "cifar": Preset(
        SOLO_LEARN.format("92.10"),
        SOLO_LARS | WIDE | {"method.loss_scale": 0.1, "optim.lr": 0.3, "optim.warmup_start": SOLO_START / 0.3, "optim.weight_decay": 1e-4},
        both(interpolation="cubic"),
    ),
    "cifar_lightly": Preset(LIGHTLY.format("81.9", 153), LIGHTLY_SGD | WIDE | {"method.projector_layers": "2", "method.redundancy": 0.005}, both()),
    "cifar_short": Preset("CIFAR's images in runs of a few hundred steps: a residual net of width 16, batch 64, 600 steps", SHORT, both(crop=(0.2, 1.0))),
    "digits": Preset(
        "the built-in digits: a residual net of width 16, batch 64, 600 steps",
        SHORT,
        both(crop=(0.8, 1.0), flip=0.0, jitter=(0.2, 0.2, 0.2, 0.05), solarize=0.0),
    ),
}  # fmt: skip


class BarlowTwins(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        hidden = [config.hidden] * (int(config.projector_layers) - 1)
        self.projector = mlp(self.out_dim, *hidden, config.dim, last_norm="bn_plain")

    def param_groups(self) -> list[dict[str, Any]]:
        params = [p for p in self.parameters() if p.requires_grad]
        bare = {"params": [p for p in params if p.ndim == 1], "lr_scale": self.config.bias_lr}
        return [{"params": [p for p in params if p.ndim > 1]}, bare]

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {name: self.backbone(batch.views[name]) for name in ("first", "second")}  # (B, F) each

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        first, second = (self.projector(h) for h in reps.values())  # (B, D), standardised over the batch
        on, off = cross_correlation(first, second, batch.size)
        return {
            "loss": self.config.loss_scale * (on + self.config.redundancy * off),
            "on_diagonal": on.detach(),
            "off_diagonal": off.detach(),
        }


@precise
def cross_correlation(first: Tensor, second: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(on, off) diagonal terms of eq. 1, from (B, D) standardised features: this rank's shares.

    The correlation is summed over ranks by a sum that has a gradient; every rank computes the whole loss, hence the division.
    """
    correlation = total(full(first).T @ full(second)) / size  # (D, D)
    diagonal = correlation.diagonal()
    on, squares = (diagonal - 1).square().sum(), correlation.square().sum() - diagonal.square().sum()
    return on / world_size(), squares / world_size()
