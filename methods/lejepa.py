"""LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics.

Balestriero & LeCun 2025, https://arxiv.org/abs/2511.08544 (code: rbalestr-lab/lejepa).
Every view of an image is embedded where its large views are on average, while the embeddings of a batch are kept an isotropic Gaussian:
along random directions their characteristic function is the normal one's (SIGReg).

B batch rows, N rows of the global batch, V views, F backbone features, D embedded features, M directions (slices), T knots
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._draws import normal
from ._parts import encode_crops, mlp, precise
from ._ranks import full, total, world_size

PAPER = Paper(
    title="LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics",
    year=2025,
    url="https://arxiv.org/abs/2511.08544",
    contrasts="nothing: all views of an image are embedded alike, and embeddings as an isotropic Gaussian",
    crops="2 + 6",
)
METRICS = {
    "loss": "(1 - method.weight) x apart + method.weight x sigreg; the paper finds it to follow the probe's accuracy",
    "apart": "mean squared distance of the views' embeddings from the mean of the image's large views",
    "sigreg": "Epps-Pulley statistic of normality along random directions, the mean over views; about 1 for a Gaussian batch, it grows with the batch for any other",
}
DIFFERS = (
    "random directions are drawn anew in each step, the same on all ranks; the release seeds a generator by its count of calls",
    "the embedding is that of one projector on the backbone's features; the release has a linear layer of 512 features between the two",
    "there is neither an averaged teacher, which the release's launch of a ViT-L has (teacher_student=true), nor are patches masked",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    weight: float = setting(0.05, "lambda, the share of SIGReg in the loss (§5)", gt=0, lt=1)
    slices: int = setting(1024, "M, random directions along which normality is tested, anew in each step (algorithm 1)", ge=1)
    knots: int = setting(17, "T, points at which characteristic functions are compared (algorithm 1)", ge=2)
    reach: float = setting(3.0, "largest of these points (release: 3; the functions are symmetric)", gt=0)
    hidden: int = setting(2048, "width of the projector's two hidden layers", unit="features", ge=1)
    dim: int = setting(512, "D, width of the embedding", unit="features", ge=1)


VIEW = View(
    crop=(0.3, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray=0.2, blur=0.5, solarize=0.2, interpolation="antialiased"
)
VIEWS = {"large": replace(VIEW, count=2), "small": replace(VIEW, size=98, count=6, crop=(0.05, 0.3))}  # release's README

RECIPE = {
    "backbone.name": "vit_large",
    "backbone.patch": 14,
    "backbone.init": "trunc_normal",  # timm's
    "backbone.drop_path": 0.1,
    "optim.name": "adamw",
    "optim.lr": 5e-4,
    "optim.lr_scaling": "none",
    "optim.weight_decay": 0.05,
    "optim.warmup_epochs": 1,
    "optim.schedule": "cosine",
    "optim.lr_end": 0.001,
    "train.batch_size": 512,
    "train.epochs": 100,
    "train.channels_last": False,
}
RESNET = {"backbone.patch": 16, "backbone.drop_path": 0.0, "optim.weight_decay": 5e-4, "train.channels_last": "auto"}
PLAIN = replace(VIEW, blur=0.0, interpolation="linear")
PRESETS = {
    "paper": Preset("ViT-L/14, 100 epochs on ImageNet, batch 512: 79.5 % linear, the mean over eight other sets"),
    "imagenette": Preset(
        "release's minimal example: ViT-S/8, four crops of 128 px, 800 epochs of Imagenette: 90.7 % linear, online",
        {"backbone.name": "vit_small", "backbone.heads": 6, "backbone.patch": 8, "method.weight": 0.02, "method.slices": 256, "method.dim": 16, "optim.lr": 2e-3,
         "optim.lr_end": 0.5, "train.batch_size": 256, "train.epochs": 800},
        {"large": replace(VIEW, size=128, count=4, crop=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2))},
    ),
    "cifar": Preset(
        "ResNet-18 with a 3x3 stem, four crops of 32 px, the rates of the release's minimal example; not measured",
        RESNET | {"backbone.name": "resnet18", "backbone.stem": "cifar", "method.weight": 0.02, "method.slices": 256, "method.dim": 64, "optim.lr": 2e-3,
                  "train.batch_size": 256, "train.epochs": 400},
        {"large": replace(PLAIN, size=32, count=4, crop=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2))},
    ),
    "digits": Preset(
        "the built-in digits, two crops of 32 px and two of 20: a residual net of width 16, batch 64, 600 steps",
        RESNET | {
            "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "method.slices": 128, "method.hidden": 256, "method.dim": 32,
            "optim.lr": 4e-3, "optim.weight_decay": 1e-4, "optim.warmup_epochs": 0.5, "train.batch_size": 64,
            "train.steps": 600, "eval.every_epochs": 2,
        },
        {"large": replace(PLAIN, size=32, count=2, crop=(0.8, 1.0), flip=0.0, solarize=0.0, jitter=(0.2, 0.2, 0.2, 0.05)),
         "small": replace(PLAIN, size=20, count=2, crop=(0.5, 0.8), flip=0.0, solarize=0.0, jitter=(0.2, 0.2, 0.2, 0.05))},
    ),
}  # fmt: skip


class LeJEPA(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.projector = mlp(self.out_dim, config.hidden, config.hidden, config.dim)

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return encode_crops(self.backbone, batch, "large", "small")

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        crops = torch.cat(list(reps.values()), 1).transpose(0, 1)  # (V, B, F), the large ones first
        z = self.projector(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])  # (V, B, D)
        apart = invariance(z, reps["large"].shape[1], batch.size)
        directions = normal(batch.draw("slices", (z.shape[2], self.config.slices), torch.float64))  # (D, M)
        directions = (directions / directions.norm(dim=0)).to(full(z).dtype)
        knots = torch.linspace(0, self.config.reach, self.config.knots, device=z.device, dtype=directions.dtype)  # (T,)
        sigreg = torch.stack([epps_pulley(view, directions, knots, batch.size) for view in z]).mean()
        loss = (1 - self.config.weight) * apart + self.config.weight * sigreg
        return {"loss": loss, "apart": apart.detach(), "sigreg": sigreg.detach()}


@precise
def invariance(z: Tensor, large: int, size: int) -> Tensor:
    """Mean squared distance of all views (V, B, D) from the mean of the first `large` (algorithm 2): this rank's share."""
    wide = full(z)
    return (wide - wide[:large].mean(0)).square().mean((0, 2)).sum() / size


@precise
def epps_pulley(z: Tensor, directions: Tensor, knots: Tensor, size: int) -> Tensor:
    """How far rows (B, D) of the global batch are from a standard normal along each of (D, M) directions, their mean: this rank's share.

    N times the squared distance of the characteristic functions, weighed by the normal one and integrated over [-reach, reach] by trapezia
    (algorithm 1). The function of the batch is the mean over all ranks' rows, by a sum that has a gradient; each rank computes the
    whole statistic, hence the division.
    """
    phase = (full(z) @ directions)[..., None] * knots  # (B, M, T)
    mean = total(torch.stack([phase.cos().sum(0), phase.sin().sum(0)])) / size  # (2, M, T)
    expected = (-knots.square() / 2).exp()  # (T,)
    error = (mean[0] - expected).square() + mean[1].square()  # (M, T)
    return 2 * size * torch.trapezoid(error * expected, knots).mean() / world_size()
