"""iBOT: Image BERT Pre-Training with Online Tokenizer.

Zhou et al., ICLR 2022, https://arxiv.org/abs/2111.07832 (code: bytedance/ibot).
DINO, and the same for patches: where blocks of a large crop are hidden from the student, it matches what the slow average, which sees
them, says of each. So the average network is the tokenizer.

B batch rows, V crops, L patches, M hidden ones of this rank's rows, F backbone features, K outputs
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._masks import blocks, front, rising
from ._parts import apart, average_of, cosine, precise
from ._ranks import full, total
from ._self_distillation import CROPS, DIGITS_CROPS, SMALL, Head, by_epochs, crops, hidden_match, match, seen_in_part

PAPER = Paper(
    title="iBOT: Image BERT Pre-Training with Online Tokenizer",
    year=2022,
    url="https://arxiv.org/abs/2111.07832",
    contrasts="a crop's and each hidden patch's output distribution with the average network's",
    ema="cosine to 1",
    crops="2 + 10 small",
)
METRICS = {
    "loss": "class_loss + method.patch_weight x patch_loss",
    "class_loss": "cross-entropy of the student's crops with the average network's other large crop; log K while both are uniform",
    "patch_loss": "the same of hidden patches, the mean over a crop's, then over crops, those without any counted as 0: half of log K while "
    "both are uniform and half of the crops are masked",
    "teacher_entropy": "entropy of the average network's outputs of crops over log K: 1 uniform, 0 always the same sharp answer; staying at "
    "either end is collapse",
}
DIFFERS = (
    "blocks are BEiT's, cut to exactly the drawn share of a crop's patches; the release's may leave a few out",
    "method.head_norm, none in the paper, is batch norm in the presets of a few hundred steps",
    "the last layer's rows have unit length in all presets; the release lets their length, one for each output, be trained in its ViT-S",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    outputs: int = setting(
        8192, "K, width of the output distribution, of one head for crops and patches (§3.2)", unit="features", ge=2
    )
    hidden: int = setting(2048, "width of the head's two hidden layers", unit="features", ge=1)
    bottleneck: int = setting(256, "width of the head before its last layer", unit="features", ge=1)
    head_norm: Literal["none", "hidden", "all"] = setting(
        "none", "batch norm in the head, as dino has it (paper: none); runs of a few hundred steps need all"
    )
    mask_share: float = setting(
        0.5, "share of large crops of which patches are hidden (§4: prediction ratio 0 or 0.3)", unit="probability", gt=0, le=1
    )
    mask_ratio: tuple[float, float] = setting(
        (0.1, 0.5), "share of the patches that are hidden in these (§4: 0.3 +- 0.2)", unit="fraction", ge=0, lt=1
    )
    patch_weight: float = setting(1.0, "weight of the patches' loss (§3.1)", ge=0)
    student_temperature: float = setting(0.1, "temperature of the student", gt=0)
    teacher_temperature: float = setting(0.07, "temperature of the average network after its warm-up, of crops and patches", gt=0)
    teacher_warmup_temperature: float = setting(0.04, "temperature of the average network at the start", gt=0)
    teacher_warmup: int = setting(30, "linear warm-up of that temperature", unit="epochs", ge=0)
    centre_momentum: float = setting(0.9, "momentum of both centres", ge=0, le=1)
    momentum: float = setting(0.996, "momentum of the average network at the start; it rises to 1", ge=0, le=1)
    freeze_epochs: float = setting(1.0, "how long the last layer stays as it was drawn", unit="epochs", ge=0)


VIEWS = {
    "large_a": replace(CROPS["large_a"], crop=(0.25, 1.0)),
    "large_b": replace(CROPS["large_b"], crop=(0.25, 1.0)),
    "small": replace(CROPS["small"], count=10, crop=(0.05, 0.25)),
}

RECIPE = {
    "backbone.name": "vit_small",
    "backbone.heads": 6,
    "backbone.init": "trunc_normal",
    "backbone.drop_path": 0.1,
    "optim.name": "adamw",
    "optim.lr": 5e-4,
    "optim.lr_end": 0.0005,  # 1e-6
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.decay_norms": False,
    "optim.warmup_epochs": 10,
    "optim.schedule": "cosine",
    "optim.clip": 3.0,
    "optim.clip_by": "tensor",
    "train.batch_size": 1024,
    "train.epochs": 800,
    "train.channels_last": False,
}
MINI = {"backbone.name": "vit_mini", "backbone.init": "moco_v3", "backbone.heads": 4, "backbone.patch": 4}

PRESETS = {
    "paper": Preset("ViT-S/16, batch 1024, 2 x 224 + 10 x 96 px, 800 epochs: 75.2 % k-NN, 77.9 % linear on ImageNet"),
    "vit_b": Preset(
        "ViT-B/16, 400 epochs, else with ViT-S's recipe, which may not be the published one's; not run here",
        {"backbone.name": "vit_base", "backbone.heads": 12, "train.epochs": 400}
    ),
    "cifar": Preset(
        "a ViT of 6 M parameters for 32 px, patches of 4 px, 2 crops of 32 px and 4 of 16; not run here",
        MINI | {"backbone.width": 192, "method.outputs": 4096, "train.batch_size": 256, "train.epochs": 500},
        crops((0.3, 1.0), replace(CROPS["small"], size=16, count=4, crop=(0.1, 0.3), blur=0.0), **SMALL),
    ),
    "digits": Preset(
        "the built-in digits on a small ViT, patches of 8 px, two crops, batch 64, 600 steps; measured over three seeds: 38.5, 27.3 and 26.0 % "
        "linear, untrained 28.7, 25.2 and 25.6",
        MINI | {"backbone.width": 64, "backbone.patch": 8, "backbone.drop_path": 0.0, "method.outputs": 1024, "method.hidden": 128,
                "method.bottleneck": 64, "method.head_norm": "all", "method.momentum": 0.9, "method.teacher_warmup": 0,
                "method.teacher_temperature": 0.05, "method.freeze_epochs": 100.0,  # all of a short run, as DINO's
                "optim.lr": 4e-3, "optim.weight_decay_end": -1.0, "optim.warmup_epochs": 1, "train.batch_size": 64, "train.steps": 600,
                "eval.every_epochs": 4},
        DIGITS_CROPS,
    ),
}  # fmt: skip


class IBOT(Method):
    reach: ClassVar[tuple[str, ...]] = (*Method.reach, "project")
    centre: Tensor
    patch_centre: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.mask_token = nn.Parameter(torch.zeros(1, self.out_dim))  # (1, F): it decays
        self.head = Head(self.out_dim, config.outputs, config.hidden, config.bottleneck, config.head_norm)
        self.teacher = average_of(self.backbone)
        self.teacher_head = average_of(self.head)
        self.register_buffer("centre", torch.zeros(config.outputs))  # (K,)
        self.register_buffer("patch_centre", torch.zeros(config.outputs))  # (K,)

    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        rising(config, "mask_ratio")

    @classmethod
    def needs_vit(cls, config: Config) -> bool:
        return True

    def ema_pairs(self):
        yield self.backbone, self.teacher
        yield self.head, self.teacher_head

    def ema_momentum(self, clock: Clock) -> float:
        return cosine(self.config.momentum, 1.0, clock.fraction)

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return seen_in_part(self, batch)

    def hidden(self, batch: Batch, side: int) -> Tensor:
        """Which of L = side^2 patches of the two large crops the student does not see: (B, 2, L) bool, none in some crops."""
        config, draws = self.config, batch.rand("masked", (2, 2))  # whether, and how many
        least, most = config.mask_ratio
        share = torch.where(draws[..., 0] < config.mask_share, least + (most - least) * draws[..., 1], 0.0)  # (B, 2)
        count = (share * side**2).long().flatten()  # (B*2,)
        order = blocks(batch.rand("blocks", (2, 64, 4)).flatten(0, 1), side, (side // 3) ** 2 / side**2, count)  # (B*2, L)
        return front(order, count).unflatten(0, (-1, 2))

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        config, hidden = self.config, reps["hidden"]
        temperatures = (config.student_temperature, by_epochs(config, clock))
        seen = torch.cat([reps[name] for name in ("whole", "small") if name in reps], 1).transpose(0, 1)  # (V, B, F)
        with torch.no_grad():
            teacher = self.teacher_head(reps["teacher_whole"].transpose(0, 1))  # (2, B, K)
            patches = by_row(self.teacher_head, reps["teacher_patches"])  # (B, 2, L, K)
        reps["teacher_mean"] = total(full(teacher).sum((0, 1))) / (2 * batch.size)  # (K,)
        reps["patch_mean"] = total(full(patches).mean(2).sum((0, 1))) / (2 * batch.size)  # (K,)
        class_loss, entropy = match(self.head(seen), teacher, self.centre, *temperatures, batch.size)
        told = sharpened(patches[hidden], self.patch_centre, temperatures[1])  # (M, K)
        scores = by_row(self.head, reps["patches"])[hidden]  # (M, K)
        patch_loss = hidden_match(scores, told, hidden, config.student_temperature, batch.size)
        loss = class_loss + config.patch_weight * patch_loss
        return {"loss": loss, "class_loss": class_loss.detach(), "patch_loss": patch_loss.detach(), "teacher_entropy": entropy}

    def after_backward(self, clock: Clock) -> None:
        if clock.epoch < self.config.freeze_epochs:
            self.head.last.grad = None

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        step = 1 - self.config.centre_momentum
        self.centre.lerp_(reps["teacher_mean"].to(self.centre.dtype), step)
        self.patch_centre.lerp_(reps["patch_mean"].to(self.centre.dtype), step)

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.teacher(inputs["image"])  # (B, F)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        net: Any = self.teacher
        whole, patches = apart(net, net.tokens(net.patches(inputs["image"])))  # (B, F), (B, L, F)
        return {"backbone": whole, "tokens": patches, "student": self.backbone(inputs["image"])}


def by_row(head: nn.Module, patches: Tensor) -> Tensor:
    """(B, 2, L, F) -> (B, 2, L, K): batch norm in the head, where there is one, takes all patches of both crops as rows."""
    return head(patches.permute(1, 2, 0, 3)).permute(2, 0, 1, 3)


@precise
def sharpened(scores: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """The average network's distribution (M, K) of centred scores (eq. 2)."""
    wide = full(scores)
    return ((wide - centre.to(wide.dtype)) / temperature).softmax(-1).detach()
