"""VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning.

Bardes, Ponce & LeCun, ICLR 2022, https://arxiv.org/abs/2105.04906 (code: facebookresearch/vicreg).
Two views of an image should be embedded alike, each feature should vary over the batch, and no two features should vary together.

B batch rows, N rows of the global batch, F backbone features, D embedded features
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import mlp, precise
from ._ranks import full, gather, world_size
from ._recipes import SOLO_DIFFERS, SOLO_LARS, SOLO_LEARN, SOLO_START

PAPER = Paper(
    title="VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
    year=2022,
    url="https://arxiv.org/abs/2105.04906",
    contrasts="nothing: two views are embedded alike, while features vary and do not vary together",
)
METRICS = {
    "loss": "method.invariance x apart + method.variance x flat + method.covariance x tied",
    "apart": "mean squared difference of the two views' embeddings; it may rise at first, while features begin to vary",
    "flat": "how far features fall short of a standard deviation of 1 over the batch, in [0, 1]; 1 is collapse",
    "tied": "how much features vary together: the squared covariances of each with the others, summed, over both views",
}
DIFFERS = (SOLO_DIFFERS,)


@dataclass(frozen=True)
class Config(MethodConfig):
    invariance: float = setting(25.0, "lambda, weight of the distance between views (eq. 6)", ge=0)
    variance: float = setting(25.0, "mu, weight of the variance term, the mean over both views (eq. 6)", ge=0)
    covariance: float = setting(1.0, "nu, weight of the covariance term, the sum over both views (eq. 6)", ge=0)
    hidden: int = setting(8192, "width of the expander's hidden layers (§4.2)", unit="features", ge=1)
    dim: int = setting(8192, "width of the embedding (§4.2)", unit="features", ge=2)


_VIEW = View(crop=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray=0.2, interpolation="antialiased_cubic")
VIEWS = {"first": replace(_VIEW, blur=1.0), "second": replace(_VIEW, blur=0.1, solarize=0.2)}  # appendix C.1: as BYOL

RECIPE = {
    "backbone.name": "resnet50",
    "backbone.zero_init_residual": True,
    "optim.name": "lars",
    "optim.lr": 0.2,
    "optim.weight_decay": 1e-6,
    "optim.warmup_epochs": 10,
    "optim.schedule": "cosine",
    "optim.lr_end": 0.001,
    "train.batch_size": 2048,
    "train.epochs": 1000,
}


def both(**changes: Any) -> dict[str, View]:
    return {name: replace(view, **{"size": 32, "blur": 0.0, "interpolation": "linear"} | changes) for name, view in VIEWS.items()}


PRESETS = {
    "paper": Preset("ResNet-50, batch 2048, 1000 epochs: 73.2 % linear on ImageNet"),
    "cifar": Preset(  # whose variance term is the sum over both views, not their mean
        SOLO_LEARN.format("92.07"),
        SOLO_LARS | {"method.variance": 50.0, "method.hidden": 2048, "method.dim": 2048, "optim.lr": 0.3, "optim.warmup_start": SOLO_START / 0.3,
                     "optim.weight_decay": 1e-4},
        both(crop=(0.2, 1.0), solarize=0.1, interpolation="cubic"),
    ),
    "digits": Preset(
        "the built-in digits: a residual net of width 16, batch 64, 600 steps",
        {
            "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "backbone.zero_init_residual": False,
            "method.hidden": 256, "method.dim": 128, "optim.name": "adamw", "optim.lr": 4e-3, "optim.weight_decay": 1e-4,
            "optim.warmup_epochs": 0.5, "train.batch_size": 64, "train.steps": 600, "eval.every_epochs": 2,
        },
        both(crop=(0.8, 1.0), flip=0.0, jitter=(0.2, 0.2, 0.2, 0.05), solarize=0.0),
    ),
}  # fmt: skip


class VICReg(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.projector = mlp(self.out_dim, config.hidden, config.hidden, config.dim, last_bias=False)  # no term sees a bias

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {name: self.backbone(batch.views[name]) for name in ("first", "second")}  # (B, F) each

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        first, second = (self.projector(h) for h in reps.values())  # (B, D)
        apart, flat, tied = regularize(first, second, batch.size)
        config = self.config
        loss = config.invariance * apart + config.variance * flat + config.covariance * tied
        return {"loss": loss, "apart": apart.detach(), "flat": flat.detach(), "tied": tied.detach()}


@precise
def regularize(first: Tensor, second: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance (eq. 1 to 5) of embeddings (B, D): this rank's shares.

    Variance and covariance are of the global batch: each rank computes them whole, from rows gathered with their gradient, hence the division.
    """
    x, y = full(first), full(second)
    apart = (x - y).square().mean(1).sum() / size
    (flat0, tied0), (flat1, tied1) = (statistics(gather(rows, size)) for rows in (x, y))
    return apart, (flat0 + flat1) / 2 / world_size(), (tied0 + tied1) / world_size()


def statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """How far the features of the batch (N, D) are from a standard deviation of 1 (eq. 1), and the squares of their covariances (eq. 4)."""
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / (len(rows) - 1)  # (D, D)
    variance = covariance.diagonal()
    flat = (1 - (variance + 1e-4).sqrt()).relu().mean()
    return flat, (covariance.square().sum() - variance.square().sum()) / len(variance)
