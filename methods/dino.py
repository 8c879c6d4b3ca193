"""DINO: Emerging Properties in Self-Supervised Vision Transformers.

Caron et al., ICCV 2021, https://arxiv.org/abs/2104.14294 (code: facebookresearch/dino).
A student that sees crops of all sizes matches the centred and sharpened output of its own slow average, which sees the large ones.

B batch rows, N rows of the global batch, V crops, F backbone features, K outputs
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, setting
from ._parts import average_of, cosine, encode_crops
from ._ranks import full, total
from ._recipes import LIGHTLY, LIGHTLY_DIFFERS, LIGHTLY_SGD, ONE_BATCH, SOLO_DIFFERS, SOLO_LARS, SOLO_LEARN, SOLO_START
from ._self_distillation import CROPS, DIGITS_CROPS, SMALL, Head, by_epochs, crops, match

PAPER = Paper(
    title="Emerging Properties in Self-Supervised Vision Transformers",
    year=2021,
    url="https://arxiv.org/abs/2104.14294",
    contrasts="a crop's output distribution with the average network's of a large crop",
    ema="cosine to 1",
    crops="2 + 8 small",
)
METRICS = {
    "loss": "cross-entropy of the student's crops with the teacher's other large crop; log K while both are uniform",
    "teacher_entropy": "entropy of the teacher's outputs over log K: 1 uniform, 0 always the same sharp answer; staying at either end is collapse",
}
DIFFERS = (
    "method.head_norm, none in the paper for ViTs, is batch norm in the presets of a few hundred steps",
    "resnet50 is the README's command; the released checkpoint (75.3 % linear) trained with LARS in batches of 4080 for 800 epochs (facebookresearch/dino, issue 133)",
    "vit_b: batch, rate and crops as others report of the release's args.txt",
    SOLO_DIFFERS,
    LIGHTLY_DIFFERS,
    ONE_BATCH,
    "cifar and cifar_lightly: features are the teacher's, as the paper's; the accuracy of solo-learn and lightly is the student's",
    "cifar_lightly: the teacher's head starts as the student's; lightly draws it anew",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    outputs: int = setting(65536, "K, width of the output distribution (§5)", unit="features", ge=2)
    hidden: int = setting(2048, "width of the head's two hidden layers (appendix C)", unit="features", ge=1)
    bottleneck: int = setting(256, "width of the head before its last layer (appendix C)", unit="features", ge=1)
    head_layers: Literal["2", "3"] = setting("3", "layers of the head before its last (appendix C: 3)")
    head_norm: Literal["none", "hidden", "all"] = setting(
        "none", "batch norm in the head (paper: none; released for ResNets: hidden layers); runs of a few hundred steps need all"
    )
    student_temperature: float = setting(0.1, "temperature of the student (§3.1)", gt=0)
    teacher_temperature: float = setting(0.04, "temperature of the teacher after its warm-up: sharpening (§3.1)", gt=0)
    teacher_warmup_temperature: float = setting(0.04, "temperature of the teacher at the start", gt=0)
    teacher_warmup: int = setting(0, "linear warm-up of the teacher's temperature", unit="epochs", ge=0)
    centre_momentum: float = setting(0.9, "momentum of the centre (eq. 4)", ge=0, le=1)
    momentum: float = setting(0.996, "momentum of the teacher at the start; it rises to 1 (§3.1)", ge=0, le=1)
    momentum_schedule: Literal["cosine", "constant"] = setting("cosine", "whether that momentum rises to 1, or stays")
    freeze_epochs: float = setting(1.0, "how long the last layer stays as it was drawn (appendix A)", unit="epochs", ge=0)


VIEWS = {"large_a": CROPS["large_a"], "large_b": CROPS["large_b"], "small": CROPS["small"]}

RECIPE = {
    "backbone.name": "vit_small",
    "backbone.init": "trunc_normal",
    "backbone.drop_path": 0.1,
    "optim.name": "adamw",
    "optim.lr": 5e-4,
    "optim.lr_end": 0.001,  # 1e-6 of 1e-3
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.decay_norms": False,
    "optim.warmup_epochs": 10,
    "optim.schedule": "cosine",
    "optim.clip": 3.0,
    "optim.clip_by": "tensor",
    "train.batch_size": 512,
    "train.epochs": 100,
    "train.channels_last": False,
}


CONVOLUTIONS = {"backbone.drop_path": 0.0, "optim.clip": 0.0, "train.channels_last": "auto"}
DIGITS = {
    "backbone.drop_path": 0.0, "method.outputs": 1024, "method.hidden": 128, "method.bottleneck": 64, "method.head_norm": "all",
    "method.momentum": 0.9, "method.teacher_temperature": 0.05, "method.teacher_warmup_temperature": 0.05,
    "method.freeze_epochs": 100.0,  # all of a short run: at its rate a last layer that learns ends uniform
    "optim.lr": 6e-3, "optim.weight_decay": 1e-4, "optim.weight_decay_end": -1.0, "optim.warmup_epochs": 0.5, "train.batch_size": 64,
    "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip
SMALL_RESNET = DIGITS | {"backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16}

PRESETS = {
    "paper": Preset("ViT-S/16 of 6 heads, batch 512, 100 epochs (the README's vanilla training): 74.0 % linear, 69.3 % k-NN (k 20) on ImageNet", {"backbone.heads": 6}),
    "vit_b": Preset(
        "ViT-B/16, 400 epochs: 78.2 % linear, 76.1 % k-NN (k 20) on ImageNet",
        {"backbone.name": "vit_base", "optim.lr": 7.5e-4, "method.teacher_temperature": 0.07, "method.teacher_warmup": 50,
         "method.freeze_epochs": 3.0, "train.epochs": 400},
        crops((0.25, 1.0), replace(CROPS["small"], count=10, crop=(0.05, 0.25))),
    ),
    "resnet50": Preset(
        "ResNet-50, batch 512, 100 epochs, as the release's README advises for convolutional networks; not run here",
        {"backbone.name": "resnet50", "backbone.drop_path": 0.0, "optim.name": "sgd", "optim.lr": 0.03, "optim.lr_end": 1e-6 / 0.06,
         "optim.weight_decay": 1e-4, "optim.weight_decay_end": -1.0},
        crops((0.14, 1.0), replace(CROPS["small"], crop=(0.05, 0.14))),
    ),
    "cifar": Preset(
        f"two crops: {SOLO_LEARN.format('89.52')}",
        SOLO_LARS | CONVOLUTIONS | {"method.outputs": 4096, "method.teacher_temperature": 0.07, "method.momentum": 0.9995, "optim.lr": 0.3,
                                    "optim.warmup_start": SOLO_START / 0.3, "optim.weight_decay": 1e-6},
        crops((0.08, 1.0), size=32, blur=0.0),
    ),
    "cifar_lightly": Preset(
        f"two crops: {LIGHTLY.format('81.3', 109)}",
        LIGHTLY_SGD | CONVOLUTIONS | {"method.outputs": 2048, "method.head_layers": "2", "method.head_norm": "hidden", "method.momentum": 0.99,
                                      "method.momentum_schedule": "constant", "method.freeze_epochs": 0.0, "optim.decay_norms": True},
        crops((0.4, 1.0), size=32, blur=0.0),
    ),
    "cifar_short": Preset(
        "two large crops of 32 px, for runs of a few hundred steps: a residual net of width 16, batch 64, 600 steps; not run here as it is",
        SMALL_RESNET | {"method.momentum": 0.97},
        crops((0.5, 1.0), **SMALL, jitter=(0.4, 0.4, 0.2, 0.05), solarize=0.0),
    ),
    "digits": Preset("the built-in digits, two crops: a residual net of width 16, batch 64, 600 steps; measured once with 305: 33.1 % k-NN and 51.0 % linear, "
                     "its untrained encoder 20.4 % and 30.4 %",
                     SMALL_RESNET, DIGITS_CROPS),
    "multicrop_digits": Preset("the digits with four small crops besides", SMALL_RESNET,
                               DIGITS_CROPS | {"small": replace(DIGITS_CROPS["large_a"], size=20, count=4, crop=(0.3, 0.6))}),
    "digits_vit": Preset("the digits on a small ViT of patches of 4 px, four small crops besides; not run here as it is",
                         DIGITS | {"backbone.name": "vit_mini", "backbone.width": 64, "backbone.patch": 4, "backbone.drop_path": 0.1, "optim.lr": 2e-3},
                         DIGITS_CROPS | {"small": replace(DIGITS_CROPS["large_a"], size=20, count=4, crop=(0.3, 0.6))}),
}  # fmt: skip


class DINO(Method):
    centre: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.head = Head(
            self.out_dim, config.outputs, config.hidden, config.bottleneck, config.head_norm, int(config.head_layers)
        )
        self.teacher = average_of(self.backbone)
        self.teacher_head = average_of(self.head)
        self.register_buffer("centre", torch.zeros(config.outputs))  # (K,)

    def ema_pairs(self):
        yield self.backbone, self.teacher
        yield self.head, self.teacher_head

    def ema_momentum(self, clock: Clock) -> float:
        start = self.config.momentum
        return start if self.config.momentum_schedule == "constant" else cosine(start, 1.0, clock.fraction)

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        large = torch.cat([batch.views["large_a"], batch.views["large_b"]])  # (2B, C, H, W)
        reps = {"large": self.backbone(large).unflatten(0, (2, -1)).transpose(0, 1)}  # (B, 2, F)
        reps |= encode_crops(self.backbone, batch, "small")  # (B, V-2, F)
        with torch.no_grad():
            reps["teacher"] = self.teacher(large).unflatten(0, (2, -1)).transpose(0, 1)  # (B, 2, F)
        return reps

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        crops = torch.cat([reps[name] for name in ("large", "small") if name in reps], 1).transpose(0, 1)  # (V, B, F)
        student = self.head(crops)  # (V, B, K)
        with torch.no_grad():
            teacher = self.teacher_head(reps["teacher"].transpose(0, 1))  # (2, B, K)
        reps["teacher_mean"] = total(full(teacher).sum((0, 1))) / (2 * batch.size)  # (K,)
        temperatures = (self.config.student_temperature, by_epochs(self.config, clock))
        loss, entropy = match(student, teacher, self.centre, *temperatures, batch.size)
        return {"loss": loss, "teacher_entropy": entropy}

    def after_backward(self, clock: Clock) -> None:
        if clock.epoch < self.config.freeze_epochs:
            self.head.last.grad = None

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        self.centre.lerp_(reps["teacher_mean"].to(self.centre.dtype), 1 - self.config.centre_momentum)

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.teacher(inputs["image"])  # (B, F)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"backbone": self.teacher(inputs["image"]), "student": self.backbone(inputs["image"])}
