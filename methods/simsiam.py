"""SimSiam: Exploring Simple Siamese Representation Learning.

Chen & He, CVPR 2021, https://arxiv.org/abs/2011.10566 (code: facebookresearch/simsiam).
One view's prediction meets the other view's projection, through which no gradient flows: no negatives, no momentum encoder.

B batch rows, N rows of the global batch, F backbone features, D projected features
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import mlp, negative_cosine, normalize
from ._ranks import gather, world_size
from ._recipes import LIGHTLY, LIGHTLY_DIFFERS, LIGHTLY_SGD, SOLO, SOLO_DIFFERS, SOLO_LEARN, SOLO_START

PAPER = Paper(
    title="Exploring Simple Siamese Representation Learning",
    year=2021,
    url="https://arxiv.org/abs/2011.10566",
    contrasts="a view's prediction with the other view's projection, whose gradient is stopped",
    predictor="yes",
)
METRICS = {
    "loss": "minus the cosine of a view's prediction with the other view's projection: 0 unrelated, -1 agreed; -1 within a few steps is collapse",
    "output_std": "standard deviation of the normalised projections over the batch: about 1 / sqrt(D) in health (D: method.dim), 0 in collapse",
}
DIFFERS = (
    "paper: the rate falls by steps; the release's by epochs",
    "cifar: the predictor's rate warms up with the others'; solo-learn's stays from its second step",
    SOLO_DIFFERS,
    LIGHTLY_DIFFERS,
)


@dataclass(frozen=True)
class Config(MethodConfig):
    dim: int = setting(2048, "width of the projector's layers (§3, projection MLP)", unit="features", ge=1)
    projector_layers: Literal["2", "3"] = setting("3", "layers of the projector (CIFAR, appendix D: 2)")
    hidden: int = setting(512, "width of the predictor's bottleneck (§3, prediction MLP)", unit="features", ge=1)
    norm: Literal["bn", "ln", "gn", "none"] = setting("bn", "norm of the hidden layers (table 3)")
    output_norm: Literal["bn_plain", "bn", "ln", "gn", "none"] = setting(
        "bn_plain", "norm of the projector's output; bn_plain has no scale and shift, as released"
    )
    predictor_schedule: Literal["constant", "decay"] = setting(
        "constant", "whether the predictor's rate stays (§4.2) or decays with the others'"
    )


VIEWS = {
    "view": View(
        count=2, crop=(0.2, 1.0), interpolation="antialiased", jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2, blur=0.5
    )
}

RECIPE = {
    "backbone.name": "resnet50",
    "backbone.zero_init_residual": True,
    "optim.name": "sgd",
    "optim.lr": 0.05,
    "optim.weight_decay": 1e-4,
    "optim.schedule": "cosine",
    "train.batch_size": 512,
    "train.epochs": 100,
}
SHORT = {
    "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "backbone.zero_init_residual": False,
    "method.dim": 128, "method.hidden": 32, "optim.name": "adamw", "optim.lr": 6e-3, "optim.warmup_epochs": 0.5,
    "train.batch_size": 64, "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip
CIFAR_VIEW = replace(VIEWS["view"], size=32, interpolation="linear", blur=0.0)
DIGITS_VIEW = replace(CIFAR_VIEW, crop=(0.8, 1.0), flip=0.0, jitter=(0.2, 0.2, 0.2, 0.05))  # a mirrored 2 is no digit

PRESETS = {
    "paper": Preset("ResNet-50, batch 512, 100 epochs: 68.1 % linear on ImageNet"),
    "cifar": Preset(
        SOLO_LEARN.format("90.51"),
        SOLO | {"optim.lr": 0.5, "optim.warmup_start": SOLO_START / 0.5, "optim.weight_decay": 1e-5},
        {"view": replace(VIEWS["view"], size=32, crop=(0.08, 1.0), interpolation="cubic")},
    ),
    "cifar_lightly": Preset(  # whose rate of 0.06 is not scaled
        LIGHTLY.format("76.4", 88),
        LIGHTLY_SGD | {"method.projector_layers": "2", "method.output_norm": "bn", "method.predictor_schedule": "decay", "optim.lr": 0.03},
        {"view": CIFAR_VIEW},
    ),
    "cifar_paper": Preset(
        "the paper's own for CIFAR-10 (appendix D): ResNet-18, a projector of 2 layers, batch 512, 800 epochs",
        {"backbone.name": "resnet18", "backbone.stem": "cifar", "method.projector_layers": "2", "optim.lr": 0.03,
         "optim.weight_decay": 5e-4, "train.epochs": 800},
        {"view": CIFAR_VIEW},
    ),
    "cifar_short": Preset("CIFAR's images in runs of a few hundred steps: a residual net of width 16, batch 64, 600 steps", SHORT, {"view": CIFAR_VIEW}),
    "digits": Preset("the built-in digits: a residual net of width 16, batch 64, 600 steps", SHORT, {"view": DIGITS_VIEW}),
}  # fmt: skip


class SimSiam(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        widths = [config.dim] * int(config.projector_layers)
        self.projector = mlp(self.out_dim, *widths, norm=config.norm, last_norm=config.output_norm)
        self.predictor = mlp(config.dim, config.hidden, config.dim, norm=config.norm)

    def param_groups(self) -> list[dict[str, Any]]:
        """The predictor's rate does not decay: it has to keep up with the latest representations (§4.2)."""
        decaying = [p for module in (self.backbone, self.projector) for p in module.parameters() if p.requires_grad]
        return [{"params": decaying}, {"params": list(self.predictor.parameters()), "schedule": self.config.predictor_schedule}]

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {name: self.backbone(batch.views[name]) for name in ("view0", "view1")}  # (B, F) each

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        z0, z1 = (self.projector(h) for h in reps.values())  # (B, D)
        p0, p1 = self.predictor(z0), self.predictor(z1)  # (B, D)
        loss = (negative_cosine(p0, z1.detach(), batch.size) + negative_cosine(p1, z0.detach(), batch.size)) / 2
        return {"loss": loss, "output_std": spread(z0, batch.size)}


@torch.no_grad()
def spread(z: Tensor, size: int) -> Tensor:
    """Standard deviation of z/|z| over the global batch, mean over features (§4.1): near 1/sqrt(D) in health, 0 in collapse; this rank's share."""
    return gather(normalize(z), size).std(0).mean() / world_size()
