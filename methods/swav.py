"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments.

Caron et al., NeurIPS 2020, https://arxiv.org/abs/2006.09882 (code: facebookresearch/swav).
From one crop the cluster assignment of another is predicted; assignments are balanced over the batch by Sinkhorn-Knopp.

B batch rows, N rows of the global batch, V crops, F backbone features, D projected features, K prototypes, Q queue
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Limit, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import encode_crops, mlp, normalize, precise
from ._ranks import full, gather, world_size
from ._recipes import LIGHTLY, LIGHTLY_DIFFERS, LIGHTLY_SGD, ONE_BATCH, SOLO_DIFFERS, SOLO_LARS, SOLO_LEARN, SOLO_START

PAPER = Paper(
    title="Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
    year=2020,
    url="https://arxiv.org/abs/2006.09882",
    contrasts="a crop's prediction with the balanced cluster assignment of another crop",
    queue="optional",
    crops="2 + 6 small",
)
METRICS = {
    "loss": "cross-entropy of a crop's prototype scores with another crop's balanced code; log K while nothing is told apart",
    "code_entropy": "entropy over log K of how often each prototype is used: 1 all alike, near 0 one prototype for everything",
}
DIFFERS = (
    "method.output_norm, none in the paper, is batch norm in the presets of a few hundred steps, whose prototypes stay frozen for most of the run",
    SOLO_DIFFERS,
    LIGHTLY_DIFFERS,
    ONE_BATCH,
    "cifar_lightly: AdamW where lightly has Adam (both decay by 1e-6), and prototypes without biases",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.1, "temperature of the predictions (eq. 2)", gt=0)
    prototypes: int = setting(3000, "clusters (§4.1: 3,000 to 100,000 hardly differ)", unit="prototypes", ge=2)
    epsilon: float = setting(0.05, "smoothness of the assignments (eq. 3)", gt=0)
    iterations: int = setting(3, "Sinkhorn iterations (§3.1)", ge=1)
    hidden: int = setting(2048, "width of the projector's hidden layer (appendix A)", unit="features", ge=1)
    dim: int = setting(128, "width of the projected space", unit="features", ge=1)
    output_norm: Literal["none", "bn"] = setting(
        "none", "norm of the projector's output (paper: none); runs of a few hundred steps need bn"
    )
    frozen_steps: int = setting(313, "steps in which the prototypes stay as they were drawn (appendix A)", unit="steps", ge=0)
    queue_size: int = setting(
        0, "past features per large crop that join the assignment of small batches (§3.1); 0: none", unit="features", ge=0
    )
    queue_epoch: float = setting(15.0, "when the queue begins to fill (appendix A)", unit="epochs", ge=0)


LARGE = View(
    count=2, crop=(0.14, 1.0), interpolation="antialiased", jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray=0.2, blur=0.5
)
VIEWS = {"large": LARGE, "small": replace(LARGE, size=96, count=6, crop=(0.05, 0.14))}

RECIPE = {
    "backbone.name": "resnet50",
    "augment.std": (0.228, 0.224, 0.225),  # as released
    "optim.name": "larc",
    "optim.lr": 0.3,
    "optim.lr_end": 0.001,
    "optim.weight_decay": 1e-6,
    "optim.warmup_epochs": 10,
    "optim.warmup_start": 0.0625,
    "optim.schedule": "cosine",
    "train.batch_size": 4096,
    "train.epochs": 800,
    "train.norm_groups": 8,  # statistics over groups of 512
}


CIFAR_VIEW = replace(LARGE, size=32, interpolation="linear", blur=0.0, jitter=(0.4, 0.4, 0.4, 0.1), crop=(0.3, 1.0))
DIGITS = {
    "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "method.prototypes": 60, "method.hidden": 128,
    "method.dim": 16,  # fewer than prototypes: features cannot hide from frozen ones, which is how short runs collapse
    "method.output_norm": "bn", "method.frozen_steps": 500, "method.epsilon": 0.03, "optim.name": "adamw", "optim.lr": 6e-3,
    "optim.weight_decay": 1e-4, "optim.warmup_epochs": 0.5, "optim.warmup_start": 0.0, "train.batch_size": 64, "train.norm_groups": 1,
    "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip
DIGITS_VIEWS = {
    "large": replace(LARGE, size=32, interpolation="linear", blur=0.0, jitter=(0.2, 0.2, 0.2, 0.05), crop=(0.8, 1.0), flip=0.0)
}  # a mirrored 2 is no digit

PRESETS = {
    "paper": Preset("ResNet-50, batch 4096, 2 x 224 + 6 x 96 px, 800 epochs: 75.3 % linear on ImageNet"),
    "b256": Preset(
        "batch 256 with a queue from epoch 15, 400 epochs: 74.3 % linear on ImageNet",
        {"optim.lr": 0.6, "optim.warmup_epochs": 0, "method.frozen_steps": 5005, "method.queue_size": 3840, "train.batch_size": 256,
         "train.epochs": 400, "train.norm_groups": 1},
    ),
    "cifar": Preset(
        f"two crops: {SOLO_LEARN.format('89.17')}",
        SOLO_LARS | {"method.frozen_steps": 390, "method.queue_size": 3840, "method.queue_epoch": 50.0, "optim.lr": 0.6,
                     "optim.warmup_start": SOLO_START / 0.6, "optim.weight_decay": 1e-6},
        {"large": replace(LARGE, size=32, crop=(0.08, 1.0), interpolation="cubic")},
    ),
    "cifar_lightly": Preset(
        f"two crops: {LIGHTLY.format('84.2', 89)}",
        LIGHTLY_SGD | {"method.prototypes": 512, "method.hidden": 512, "method.frozen_steps": 0, "optim.name": "adamw", "optim.lr": 2e-3,
                       "optim.weight_decay": 1e-6},
        {"large": replace(CIFAR_VIEW, crop=(0.14, 1.0))},
    ),
    "cifar_short": Preset("CIFAR's images in runs of a few hundred steps, two crops: a residual net of width 16, batch 64, 600 steps", DIGITS,
                          {"large": CIFAR_VIEW}),
    "digits": Preset("the built-in digits, two crops: a residual net of width 16, batch 64, 600 steps", DIGITS, DIGITS_VIEWS),
    "digits_queue": Preset("the digits in batches of 64 with a queue of 512 from the first epoch",
                           DIGITS | {"method.queue_size": 512, "method.queue_epoch": 1.0}, DIGITS_VIEWS),
    "digits_multicrop": Preset("the digits with four small crops besides", DIGITS,
                               DIGITS_VIEWS | {"small": replace(DIGITS_VIEWS["large"], size=20, count=4, crop=(0.3, 0.6))}),
}  # fmt: skip


class SwAV(Method):
    queue: Tensor
    filled: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.projector = mlp(self.out_dim, config.hidden, config.dim, last_norm=config.output_norm)
        self.prototypes = nn.Parameter(normalize(torch.randn(config.prototypes, config.dim)))  # (K, D)
        self.register_buffer("queue", torch.zeros(2, config.queue_size, config.dim))  # (2, Q, D), newest first
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    @classmethod
    def limits(cls, config: Config, *, samples: int, batch: int) -> Mapping[str, Limit]:
        known, filled = batch + config.queue_size, "the global batch, which it takes in each step"
        few = Limit(
            2, known, "", "batch + queue_size: an assignment of fewer samples leaves prototypes empty", max(samples // 10, 8)
        )
        queue = {"queue_size": Limit(batch, max(samples, batch), filled, "the training samples")} if config.queue_size else {}
        return {"prototypes": few} | queue

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return encode_crops(self.backbone, batch, "large", "small")

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        h = torch.cat([reps[name] for name in reps], 1).transpose(0, 1)  # (V, B, F), the large crops first
        z = normalize(self.projector(h.flatten(0, 1))).unflatten(0, h.shape[:2])  # (V, B, D)
        everyone = gather(z[:2].detach().transpose(0, 1), batch.size).transpose(0, 1)  # (2, N, D)
        codes = torch.stack([self.assign(everyone[i], i) for i in range(2)])  # (2, N, K)
        reps["enqueue"] = everyone
        loss = swapped(z, self.prototypes, codes[:, batch.slot], self.config.temperature, batch.size)
        mean = codes.mean((0, 1))  # (K,)
        entropy = -(mean * mean.clamp(min=1e-12).log()).sum() / math.log(len(mean))
        return {"loss": loss, "code_entropy": entropy / world_size()}

    @torch.no_grad()
    def assign(self, z: Tensor, crop: int) -> Tensor:
        """(N, D) features of one large crop of the global batch -> their codes (N, K); a full queue takes part."""
        rows = z
        if self.config.queue_size and int(self.filled) >= self.config.queue_size:
            rows = torch.cat([z, self.queue[crop].to(z.dtype)])  # (N+Q, D)
        return codes(rows, self.prototypes, self.config.epsilon, self.config.iterations)[: len(z)]

    @torch.no_grad()
    def prototype_scores(self, features: Tensor) -> Tensor:
        return normalize(self.projector(features)) @ self.prototypes.T  # (B, K)

    def after_backward(self, clock: Clock) -> None:
        if clock.step < self.config.frozen_steps:
            self.prototypes.grad = None

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        self.prototypes.copy_(normalize(self.prototypes))  # after every step, hence before every forward pass
        if self.config.queue_size and clock.epoch >= self.config.queue_epoch:
            self.queue.copy_(torch.cat([reps["enqueue"].to(self.queue.dtype), self.queue], 1)[:, : self.config.queue_size])
            self.filled += batch.size


@precise
def swapped(z: Tensor, prototypes: Tensor, codes: Tensor, temperature: float, size: int) -> Tensor:
    """Swapped prediction (eq. 1 and 2): the codes (2, B, K) of the large crops, each predicted from every other crop of z (V, B, D).

    The mean over codes, other crops and the global batch: this rank's share.
    """
    log_p = (z @ prototypes.to(z.dtype).T / temperature).log_softmax(-1)  # (V, B, K)
    terms = [-(codes[i] * log_p[v]).sum() for i in range(2) for v in range(len(z)) if v != i]
    return torch.stack(terms).mean() / size


@precise
def codes(z: Tensor, prototypes: Tensor, epsilon: float, iterations: int) -> Tensor:
    """(N, D) features, (K, D) prototypes -> (N, K) codes: at epsilon 0.05 the three digits of bf16 would misplace some per cent of them."""
    return sinkhorn(full(z) @ prototypes.to(full(z).dtype).T, epsilon, iterations)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """(N, K) scores -> (N, K) codes: rows sum to one, prototypes are used alike (§3.1, eq. 3 to 5; Cuturi 2013)."""
    q = ((scores - scores.max()) / epsilon).exp()  # (N, K)
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return q * q.shape[0]
