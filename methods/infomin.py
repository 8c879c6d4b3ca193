"""InfoMin: What Makes for Good Views for Contrastive Learning?

Tian, Sun, Poole, Krishnan, Schmid & Isola, NeurIPS 2020, https://arxiv.org/abs/2005.10243 (code: HobbitLong/PyContrast).
MoCo with views that share little but the object, and a second query: the image's shuffled pieces (PIRL's jigsaw; Misra & van der Maaten 2020).

B batch rows, N rows of the global batch, P pieces, F backbone features, D projected features, K queue
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Limit, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import info_nce, mlp, normalize, queue_limit
from ._ranks import gather

PAPER = Paper(
    title="What Makes for Good Views for Contrastive Learning?",
    year=2020,
    url="https://arxiv.org/abs/2005.10243",
    contrasts="a strongly augmented query, and one of shuffled pieces, against a key and a queue",
    negatives="queue",
    queue="yes",
    ema="constant",
    crops="2 + 9 pieces",
)
METRICS = {
    "loss": "InfoNCE of the image's query and of its shuffled pieces, each against the key and the queue, weighted by method.jigsaw; log(K + 1) at chance",
    "contrast_top1": "share of queries whose own key is nearer than every key of the queue",
    "jigsaw_top1": "the same for the queries of the shuffled pieces",
}
DIFFERS = (
    "the presets of a few hundred steps have weaker colours and torchvision's RandAugment of one weak operation; timm's, the release's, solarises at small magnitudes",
    "method.head_norm, none in the paper, is batch norm in the presets of a few hundred steps",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.15, "temperature of InfoNCE", gt=0)
    queue_size: int = setting(65536, "keys in the queue; at most dataset - batch, at least the batch", unit="keys", ge=1)
    momentum: float = setting(0.999, "momentum of the key encoder", ge=0, le=1)
    jigsaw: float = setting(0.5, "share of the loss that the shuffled pieces have", unit="fraction", gt=0, lt=1)
    hidden: int = setting(2048, "width of each head's hidden layer", unit="features", ge=1)
    dim: int = setting(128, "width of the projected space", unit="features", ge=1)
    head_norm: Literal["none", "bn"] = setting(
        "none", "norm after each layer of the heads (paper: none); runs of a few hundred steps need bn"
    )


# the release (pycontrast/datasets/util.py, aug D): colour jitter, blur, timm's RandAugment of two operations, grey last
VIEW = View(crop=(0.2, 1.0), interpolation="antialiased", jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray=0.2, gray_order="last", blur=0.5, 
            randaugment=(2, 10), randaugment_as="timm")  # fmt: skip
PIECES = View(size=255, kind="patches", grid=(3, 64, 85), grid_shift=21, crop=(0.6, 1.0), interpolation="antialiased")  # fmt: skip  # 64 px somewhere in each cell of 85
VIEWS = {"query": VIEW, "key": VIEW, "pieces": PIECES}

RECIPE = {
    "backbone.name": "resnet50",
    "optim.name": "sgd",
    "optim.lr": 0.03,
    "optim.weight_decay": 1e-4,
    "optim.schedule": "cosine",
    "train.batch_size": 256,
    "train.epochs": 200,
    "train.norm_groups": 8,  # as MoCo
}
SMALL = replace(VIEW, size=32, interpolation="linear", blur=0.0)
SMALL_PIECES = replace(PIECES, size=48, interpolation="linear", grid=(3, 12, 16), grid_shift=4)
WEAK = replace(SMALL, gray_order="after_jitter", randaugment_as="torchvision")
WEAKER = replace(WEAK, jitter=(0.4, 0.4, 0.4, 0.1), randaugment=(1, 3))
DIGIT = replace(WEAK, crop=(0.8, 1.0), flip=0.0, jitter=(0.2, 0.2, 0.2, 0.05), randaugment=(1, 2))  # a mirrored 2 is no digit
SHORT = {
    "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "method.queue_size": 256, "method.momentum": 0.5,
    "method.head_norm": "bn", "method.hidden": 128, "method.dim": 64, "optim.name": "adamw", "optim.lr": 8e-3,
    "optim.warmup_epochs": 0.5, "train.batch_size": 64, "train.norm_groups": 1, "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip

PRESETS = {
    "paper": Preset("ResNet-50, 65,536 keys, 200 epochs: 70.1 % linear on ImageNet (73.0 % after 800)", {"optim.lr_end": 0.001}),
    "cifar": Preset(
        "ResNet-18 with a 3x3 stem, 4096 keys, pieces of 12 px",
        {"backbone.name": "resnet18", "backbone.stem": "cifar", "method.queue_size": 4096, "method.momentum": 0.99, "method.hidden": 512},
        {"query": SMALL, "key": SMALL, "pieces": SMALL_PIECES},
    ),
    "cifar_short": Preset("weaker colours: a residual net of width 16, batch 64, 600 steps",
                          SHORT, {"query": WEAKER, "key": WEAKER, "pieces": SMALL_PIECES}),
    "digits": Preset("the built-in digits: a residual net of width 16, batch 64, 600 steps",
                     SHORT, {"query": DIGIT, "key": DIGIT, "pieces": replace(SMALL_PIECES, flip=0.0)}),
}  # fmt: skip


class InfoMin(Method):
    strided: ClassVar[tuple[str, ...]] = ("key",)

    queue: Tensor
    pointer: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        norm, widths = config.head_norm, (self.out_dim, config.hidden, config.dim)
        self.head = mlp(*widths, norm=norm, last_norm=norm)
        self.piece_head = mlp(*widths, norm=norm, last_norm=norm)  # of one piece
        self.join = mlp(9 * config.dim, config.dim, last_norm=config.head_norm)  # of nine, in shuffled order
        self.key_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("queue", normalize(torch.randn(config.queue_size, config.dim)))  # (K, D)
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
        return self.config.momentum

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        h_query = self.backbone(batch.views["query"])  # (B, F)
        pieces = batch.views["pieces"]  # (B, P, 3, h, w)
        h_pieces = (
            self.backbone(pieces.transpose(0, 1).flatten(0, 1)).unflatten(0, (pieces.shape[1], -1)).transpose(0, 1)
        )  # (B, P, F)
        with torch.no_grad(), batch.norm("strided"):  # a key's norm group holds few of its query's company (see MoCo)
            h_key = self.key_backbone(batch.views["key"])  # (B, F)
        return {"query": h_query, "pieces": h_pieces, "key": h_key}

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        query = normalize(self.head(reps["query"]))  # (B, D)
        puzzle = normalize(self.solve(reps["pieces"], batch.rand("shuffle", (reps["pieces"].shape[1],)).argsort(1)))  # (B, D)
        with torch.no_grad(), batch.norm("strided"):
            key = normalize(self.key_head(reps["key"]))  # (B, D), of the intact image
            reps["enqueue"] = gather(key, batch.size)  # (N, D)
        options = (key, self.queue, self.config.temperature, batch.size)
        (whole, accuracy), (shuffled, puzzle_accuracy) = info_nce(query, *options), info_nce(puzzle, *options)
        loss = (1 - self.config.jigsaw) * whole + self.config.jigsaw * shuffled
        return {"loss": loss, "contrast_top1": accuracy, "jigsaw_top1": puzzle_accuracy}

    def solve(self, pieces: Tensor, order: Tensor) -> Tensor:
        """Features of pieces (B, P, F), each through its head, joined in the given order (B, P): (B, D)."""
        z = self.piece_head(pieces.transpose(0, 1).flatten(0, 1)).unflatten(0, (pieces.shape[1], -1)).transpose(0, 1)  # (B, P, D)
        shuffled = z.gather(1, order[..., None].expand(-1, -1, z.shape[2]))  # (B, P, D)
        return self.join(shuffled.flatten(1))

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        places = (self.pointer + torch.arange(batch.size, device=self.queue.device)) % len(self.queue)  # (N,)
        self.queue[places] = reps["enqueue"].to(self.queue.dtype)
        self.pointer.copy_((self.pointer + batch.size) % len(self.queue))
