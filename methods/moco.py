"""MoCo: Momentum Contrast for Unsupervised Visual Representation Learning, v1 and v2.

He, Fan, Wu, Xie & Girshick, CVPR 2020, https://arxiv.org/abs/1911.05722; v2: Chen, Fan, Girshick & He, https://arxiv.org/abs/2003.04297
(code: facebookresearch/moco). A query is told from a queue of old keys, which a slowly moving copy of the encoder computed.

B batch rows, N rows of the global batch, F backbone features, D projected features, K queue
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Limit, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import cosine, info_nce, mlp, normalize, queue_limit
from ._ranks import gather
from ._recipes import LIGHTLY, LIGHTLY_DIFFERS, LIGHTLY_SGD, SOLO, SOLO_DIFFERS, SOLO_LEARN, SOLO_START

PAPER = Paper(
    title="Momentum Contrast for Unsupervised Visual Representation Learning (v1); Improved Baselines with Momentum Contrastive Learning (v2)",
    year=2020,
    url="https://arxiv.org/abs/1911.05722",
    contrasts="a query against its key and a queue of older keys",
    negatives="queue",
    queue="yes",
    ema="constant",
)
METRICS = {
    "loss": "InfoNCE of a query with its own key against the queue; log(K + 1) at chance. It may rise at first, while the queue fills with keys that differ",
    "contrast_top1": "share of queries whose own key is nearer than every key of the queue",
}
DIFFERS = (
    "in the place of shuffling between GPUs, batch norm runs over train.norm_groups groups of the batch, queries in blocks, keys in strides: of 8 groups "
    "of 32 rows a key's shares 4 rows with its query's, as after a random shuffle",
    SOLO_DIFFERS,
    LIGHTLY_DIFFERS,
    "cifar_lightly: batch norm runs over the whole batch, lightly's over 8 shuffled parts; each direction has a queue of its own, lightly's one takes both",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.2, "temperature of InfoNCE (v1 §3.1: 0.07; v2 §2: 0.2)", gt=0)
    queue_size: int = setting(
        65536, "keys in the queue (v1 §3.3); at most dataset - batch, at least the batch", unit="keys", ge=1
    )
    momentum: float = setting(0.999, "momentum of the key encoder (v1 §3.2, eq. 2)", ge=0, le=1)
    momentum_end: float = setting(-1.0, "momentum at the end, on half a cosine (v2+); -1: constant", ge=-1, le=1)
    directions: Literal["1", "2"] = setting(
        "1",
        "1: the first view asks the second; 2: each asks the other, with a queue for each, keys in blocks as queries (v2+: Chen & He 2021, table 4)",
    )
    head: Literal["linear", "mlp"] = setting("mlp", "projection: linear (v1) or one hidden layer (v2 §2)")
    head_norm: Literal["none", "bn"] = setting(
        "none", "norm after each layer of the head (v1, v2: none; v3: bn); runs of a few hundred steps need bn"
    )
    hidden: int = setting(2048, "width of the mlp head's hidden layer", unit="features", ge=1)
    dim: int = setting(128, "width of the projected space", unit="features", ge=1)


V1_VIEW = View(crop=(0.2, 1.0), interpolation="antialiased", jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, gray=0.2,
               gray_order="before_jitter")  # v1: as InstDisc  # fmt: skip
# v2 §2
V2_VIEW = View(crop=(0.2, 1.0), interpolation="antialiased", jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2, blur=0.5)
VIEWS = {"query": V2_VIEW, "key": V2_VIEW}

RECIPE = {
    "backbone.name": "resnet50",
    "optim.name": "sgd",
    "optim.lr": 0.03,
    "optim.weight_decay": 1e-4,
    "optim.schedule": "cosine",
    "train.batch_size": 256,
    "train.epochs": 200,
    "train.norm_groups": 8,  # shuffling batch norm over 8 GPUs of 32 (v1 §3.3)
}
V1 = {"method.head": "linear", "method.temperature": 0.07, "optim.schedule": "step", "optim.milestones": (0.6, 0.8)}
CIFAR = {
    "backbone.name": "resnet18",
    "backbone.stem": "cifar",
    "method.queue_size": 4096,
    "method.momentum": 0.99,
    "method.hidden": 512,
}
DIGITS = {
    "backbone.name": "resnet_small",
    "backbone.stem": "cifar",
    "backbone.width": 16,
    "method.queue_size": 256,
    "method.momentum": 0.5,  # a key encoder with a longer memory lags too far behind a network that learns in a few hundred steps
    "method.head_norm": "bn",  # without it nothing centres the features, and the queue's age is the easiest cue: all collapses
    "method.hidden": 128,
    "method.dim": 64,
    "optim.name": "adamw",
    "optim.lr": 8e-3,
    "optim.warmup_epochs": 0.5,
    "train.batch_size": 64,
    "train.norm_groups": 1,
    "train.steps": 600,
    "eval.every_epochs": 2,
}


def both(view: View) -> dict[str, View]:
    return {"query": view, "key": view}


def small(view: View) -> View:
    return replace(view, size=32, interpolation="linear", blur=0.0)


def digit(view: View) -> View:
    return replace(small(view), crop=(0.8, 1.0), flip=0.0, jitter=(0.2, 0.2, 0.2, 0.05))  # a mirrored 2 is no digit


PRESETS = {
    "paper": Preset("v2's card: ResNet-50, 65,536 keys, 200 epochs: 67.5 % linear on ImageNet"),
    "v1": Preset(
        "linear head, temperature 0.07, steps at 120 and 160 of 200 epochs: 60.6 % linear on ImageNet", V1, both(V1_VIEW)
    ),
    "v2": Preset("MLP head, blur, cosine schedule: 67.5 % linear on ImageNet after 200 epochs, 71.1 % after 800"),
    "cifar": Preset(
        f"MoCo v2+, of two directions: {SOLO_LEARN.format('92.94')}",
        SOLO
        | {
            "method.directions": "2",
            "method.queue_size": 32768,
            "method.momentum": 0.99,
            "method.momentum_end": 0.999,
            "method.dim": 256,
            "optim.lr": 0.3,
            "optim.warmup_start": SOLO_START / 0.3,
            "optim.weight_decay": 1e-4,
        },
        both(replace(V2_VIEW, size=32, crop=(0.08, 1.0), interpolation="cubic")),
    ),
    "cifar_lightly": Preset(
        f"two directions: {LIGHTLY.format('84.7', 112)}",
        LIGHTLY_SGD
        | {
            "method.directions": "2",
            "method.temperature": 0.1,
            "method.queue_size": 8192,
            "method.momentum": 0.99,
            "method.hidden": 512,
        },
        both(replace(small(V2_VIEW), crop=(0.08, 1.0))),
    ),
    "cifar_short": Preset(
        "CIFAR's images in runs of a few hundred steps: a residual net of width 16, batch 64, 600 steps",
        DIGITS,
        both(small(V2_VIEW)),
    ),
    "cifar_v1": Preset("v1 for 32 px", V1 | CIFAR, both(small(V1_VIEW))),
    "digits": Preset("v2 on the built-in digits in two minutes on two cores", DIGITS, both(digit(V2_VIEW))),
    "digits_both": Preset(
        "v2+ on the built-in digits: each view asks the other",
        DIGITS | {"method.directions": "2", "method.momentum_end": 0.9},
        both(digit(V2_VIEW)),
    ),
    "digits_v1": Preset("v1 on the built-in digits", V1 | DIGITS | {"method.temperature": 0.1}, both(digit(V1_VIEW))),
}


class MoCo(Method):
    strided: ClassVar[tuple[str, ...]] = ("key",)

    queue: Tensor
    pointer: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        widths = [self.out_dim, *([config.hidden] if config.head == "mlp" else []), config.dim]
        self.head = mlp(*widths, norm=config.head_norm, last_norm=config.head_norm)
        self.key_backbone = copy.deepcopy(self.backbone).requires_grad_(False)  # starts as an exact copy
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        directions = () if config.directions == "1" else (2,)
        self.register_buffer("queue", normalize(torch.randn(*directions, config.queue_size, config.dim)))  # (K, D) or (2, K, D)
        if directions:
            self.strided = ()  # pyright: ignore[reportAttributeAccessIssue]
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @classmethod
    def limits(cls, config: Config, *, samples: int, batch: int) -> Mapping[str, Limit]:
        return {"queue_size": queue_limit(samples, batch)}

    def negatives(self, batch: int) -> int:
        return self.config.queue_size

    def ema_pairs(self):
        yield self.backbone, self.key_backbone
        yield self.head, self.key_head

    def ema_momentum(self, clock: Clock) -> float:
        start, end = self.config.momentum, self.config.momentum_end
        return start if end < 0 else cosine(start, end, clock.fraction)

    @property
    def layout(self) -> str:
        """Of the keys' norm groups: strided, so that a key shares few rows of its group with its query."""
        return "strided" if self.strided else "blocks"

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        query, key = batch.views["query"], batch.views["key"]
        reps = {"query": self.backbone(query)}  # (B, F)
        with torch.no_grad(), batch.norm(self.layout):
            reps["key"] = self.key_backbone(key)  # (B, F)
        if self.config.directions == "2":
            reps["query1"] = self.backbone(key)  # (B, F)
            with torch.no_grad():
                reps["key1"] = self.key_backbone(query)  # (B, F)
        return reps

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        terms, keys = [], []
        for end, queue in zip(("", "1"), self.queues, strict=False):
            query = normalize(self.head(reps[f"query{end}"]))  # (B, D)
            with torch.no_grad(), batch.norm(self.layout):
                key = normalize(self.key_head(reps[f"key{end}"]))  # (B, D)
            terms.append(info_nce(query, key, queue, self.config.temperature, batch.size))
            keys.append(gather(key, batch.size))  # (N, D)
        reps["enqueue"] = torch.stack(keys)  # (1 or 2, N, D)
        loss, accuracy = (torch.stack(values).mean() for values in zip(*terms, strict=True))
        return {"loss": loss, "contrast_top1": accuracy}

    @property
    def queues(self) -> Tensor:
        """(1 or 2, K, D), of each direction."""
        return self.queue if self.queue.ndim == 3 else self.queue[None]

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        size = self.config.queue_size
        places = (self.pointer + torch.arange(batch.size, device=self.queue.device)) % size  # (N,)
        self.queues[:, places] = reps["enqueue"].to(self.queue.dtype)
        self.pointer.copy_((self.pointer + batch.size) % size)
