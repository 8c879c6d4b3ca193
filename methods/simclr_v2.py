"""SimCLR v2: Big Self-Supervised Models are Strong Semi-Supervised Learners.

Chen, Kornblith, Swersky, Norouzi & Hinton, NeurIPS 2020, https://arxiv.org/abs/2006.10029 (code: google-research/simclr).
SimCLR with larger networks and a deeper projector, of which fine-tuning keeps the first layer; optionally a memory of older keys.

B batch rows, N rows of the global batch, F backbone features, P projector's hidden features, D projected features, K memory
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Limit, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import mlp, normalize, nt_xent, queue_limit
from ._ranks import gather

PAPER = Paper(
    title="Big Self-Supervised Models are Strong Semi-Supervised Learners",
    year=2020,
    url="https://arxiv.org/abs/2006.10029",
    contrasts="two views of an image against all other images of the batch (and a memory)",
    negatives="batch",
    queue="optional",
    ema="optional",
)
METRICS = {
    "loss": "NT-Xent of a view with its partner among the other 2N - 1 views of the global batch and the memory; log of their number at chance",
    "contrast_top1": "share of views whose partner is the nearest of all others",
}
DIFFERS = (
    "each view has batch statistics of its own; in the release both views are one batch",
    "fine-tuning warms up over a tenth of its steps, the paper's over none: --eval.finetune.warmup 0",
    "the loss is the mean over all anchors; the release sums its two directions: under LARS norms and biases take half its steps",
    "method.memory_size: the batch's own negatives are the trained network's, older ones the average's; the authors' all are the average's "
    "(google-research/simclr, issue 115)",
    "the release's blur pads with zeros, its pixels are not normalised, and its convolutions begin smaller (fan-in, gain 1)",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.1, "temperature of NT-Xent", gt=0)
    projector_hidden: int = setting(
        2048, "width of the projector's two hidden layers: the backbone's (§2)", unit="features", ge=1
    )
    projector_dim: int = setting(128, "width of the projected space", unit="features", ge=1)
    memory_size: int = setting(
        0,
        "older keys of a slowly moving copy that join the negatives (§2; 65,536 there); 0: no memory, no copy",
        unit="keys",
        ge=0,
    )
    momentum: float = setting(0.999, "momentum of the copy that computes the memory's keys", ge=0, le=1)


VIEW = View(
    crop=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray=0.2, blur=0.5, jitter_as="tensorflow", interpolation="cubic"
)
VIEWS = {"first": VIEW, "second": VIEW}

RECIPE = {
    "backbone.name": "resnet50",
    "backbone.zero_init_residual": True,
    "backbone.selective_kernels": 0.0625,
    "optim.name": "lars",
    "optim.rate_in_velocity": True,
    "optim.lr": 0.1,
    "optim.lr_scaling": "sqrt",
    "optim.weight_decay": 1e-4,
    "optim.warmup_epochs": 40,
    "optim.schedule": "cosine",
    "train.batch_size": 4096,
    "train.epochs": 800,
}


def both(view: View) -> dict[str, View]:
    return {"first": view, "second": view}


CIFAR_VIEW = replace(VIEW, size=32, jitter_as="torchvision", jitter=(0.4, 0.4, 0.4, 0.1), blur=0.0, interpolation="linear")
DIGITS = {
    "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "backbone.zero_init_residual": False,
    "optim.rate_in_velocity": False, "method.temperature": 0.2, "method.projector_hidden": 128, "method.projector_dim": 64, "method.momentum": 0.5,
    "optim.name": "adamw", "optim.lr": 6e-3, "optim.lr_scaling": "linear",
    "optim.warmup_epochs": 0.5, "train.batch_size": 128, "train.steps": 300, "eval.every_epochs": 2,
}  # fmt: skip
DIGITS_VIEWS = both(replace(CIFAR_VIEW, crop=(0.6, 1.0), flip=0.0))  # a mirrored 2 is no digit

PRESETS = {
    "paper": Preset("ResNet-50 with selective kernels, 800 epochs: 64.5, 72.1 and 78.7 % on ImageNet fine-tuned on 1, 10 and 100 % of its labels, "
                    "with the authors' memory"),
    "resnet152_3x": Preset("ResNet-152, three times as wide: 74.9, 80.1 and 83.1 % fine-tuned",
                           {"backbone.name": "resnet152", "backbone.width": 192, "method.projector_hidden": 6144}),
    "memory": Preset("paper with 65,536 older keys; the authors' plain ResNet-50 has 71.7 % linear with theirs, 71.1 without (google-research/simclr, "
                     "issue 77)", {"method.memory_size": 65536}),
    "cifar": Preset(
        "ResNet-18 with a 3x3 stem and selective kernels, batch 512",
        {"backbone.name": "resnet18", "backbone.stem": "cifar", "method.temperature": 0.5, "method.projector_hidden": 512, "optim.lr": 1.0,
         "optim.lr_scaling": "linear", "optim.warmup_epochs": 10, "train.batch_size": 512},
        both(CIFAR_VIEW),
    ),
    "digits": Preset("the built-in digits on a residual net of width 16, batch 128, 300 steps", DIGITS, DIGITS_VIEWS),
    "digits_memory": Preset("the digits with a selective-kernel net and 256 older keys", DIGITS | {"backbone.selective_kernels": 0.0625,
                            "method.memory_size": 256}, DIGITS_VIEWS),
}  # fmt: skip


class SimCLRv2(Method):
    memory: Tensor
    pointer: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        widths = (self.out_dim, config.projector_hidden, config.projector_hidden, config.projector_dim)
        self.projector = mlp(*widths, last_norm="bn_scale")
        if config.memory_size:
            self.key_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
            self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.register_buffer("memory", normalize(torch.randn(config.memory_size, config.projector_dim)))  # (K, D)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @classmethod
    def limits(cls, config: Config, *, samples: int, batch: int) -> Mapping[str, Limit]:
        return {"memory_size": queue_limit(samples, batch)} if config.memory_size else {}

    def negatives(self, batch: int) -> int:
        return 2 * (batch - 1) + self.config.memory_size

    def ema_pairs(self):
        if self.config.memory_size:
            yield self.backbone, self.key_backbone
            yield self.projector, self.key_projector

    def ema_momentum(self, clock: Clock) -> float:
        return self.config.momentum

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        reps = {name: self.backbone(batch.views[name]) for name in ("first", "second")}  # (B, F) each
        if self.config.memory_size:
            with torch.no_grad():
                reps["key"] = self.key_backbone(batch.views["second"])  # (B, F)
        return reps

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        first, second = (normalize(self.projector(reps[name])) for name in ("first", "second"))  # (B, D)
        if self.config.memory_size:
            with torch.no_grad():
                reps["enqueue"] = gather(normalize(self.key_projector(reps["key"])), batch.size)  # (N, D)
        loss, accuracy = nt_xent(first, second, self.config.temperature, batch.slot, batch.size, self.memory)
        return {"loss": loss, "contrast_top1": accuracy}

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        if self.config.memory_size:
            places = (self.pointer + torch.arange(batch.size, device=self.memory.device)) % len(self.memory)  # (N,)
            self.memory[places] = reps["enqueue"].to(self.memory.dtype)
            self.pointer.copy_((self.pointer + batch.size) % len(self.memory))

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`projector1` is what fine-tuning starts from: the output of the projector's first layer (§2, figure 5)."""
        h = self.backbone(inputs["image"])  # (B, F)
        return {"backbone": h, "projector1": self.projector[:3](h)}  # (B, P)
