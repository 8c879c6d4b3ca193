"""DenseCL: Dense Contrastive Learning for Self-Supervised Visual Pre-Training.

Wang, Zhang, Shen, Kong & Li, CVPR 2021, https://arxiv.org/abs/2011.09157 (code: WXinlong/DenseCL).
MoCo of images and of places at once: each place of one view is told, from places of other images, as the place of the other view
that looks most like it.

B batch rows, N rows of the global batch, F backbone features, M channels of its map, L places, D projected features, K queue
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Limit, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import info_nce, mlp, norm_layer, normalize, precise, queue_limit
from ._ranks import gather

PAPER = Paper(
    title="Dense Contrastive Learning for Self-Supervised Visual Pre-Training",
    year=2021,
    url="https://arxiv.org/abs/2011.09157",
    contrasts="an image, and each place of it, against its key and a queue of older keys",
    negatives="queue",
    queue="yes",
    ema="constant",
)
METRICS = {
    "loss": "(1 - method.dense) x InfoNCE of images + method.dense x InfoNCE of places, each against a queue; log(K + 1) at chance",
    "contrast_top1": "share of queries whose own key is nearer than every key of the queue",
    "dense_top1": "share of places whose counterpart in the other view is nearer than every key of the queue of places",
}
DIFFERS = (
    "in the place of shuffling between GPUs, batch norm runs over train.norm_groups groups of the batch, queries in blocks, keys in strides",
    "heads are drawn as torch draws linear layers, and method.head_norm, none in the paper, is batch norm in the digits preset",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.2, "temperature of both InfoNCE (§4.1)", gt=0)
    dense: float = setting(0.5, "lambda, the share of the loss that places have (eq. 3)", gt=0, lt=1)
    queue_size: int = setting(65536, "keys in each of the two queues (§4.1); at most dataset - batch", unit="keys", ge=1)
    momentum: float = setting(0.999, "momentum of the key encoder (§4.1)", ge=0, le=1)
    head_norm: Literal["none", "bn"] = setting("none", "norm after each layer of the heads (paper: none); short runs need bn")
    hidden: int = setting(2048, "width of each head's hidden layer (§3.2)", unit="features", ge=1)
    dim: int = setting(128, "width of the projected spaces (§3.2)", unit="features", ge=1)


# §4.1: as MoCo v2
VIEW = View(crop=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2, blur=0.5, interpolation="antialiased")
VIEWS = {"query": VIEW, "key": VIEW}

RECIPE = {
    "backbone.name": "resnet50",
    "optim.name": "sgd",
    "optim.lr": 0.03,
    "optim.weight_decay": 1e-4,
    "optim.schedule": "cosine",
    "train.batch_size": 256,
    "train.epochs": 200,
    "train.norm_groups": 8,  # shuffling batch norm over 8 GPUs of 32
}
SMALL = replace(VIEW, size=32, blur=0.0, interpolation="linear")
DIGIT = replace(SMALL, crop=(0.8, 1.0), flip=0.0, jitter=(0.2, 0.2, 0.2, 0.05))  # a mirrored 2 is no digit


def both(view: View) -> dict[str, View]:
    return {"query": view, "key": view}


PRESETS = {
    "paper": Preset("ResNet-50 on ImageNet, 200 epochs: 58.7 AP of detection and 69.4 % mIoU of segmentation on VOC (MoCo v2: 57.0, 67.5)"),
    "coco": Preset("ResNet-50 on COCO's images, 800 epochs: 56.7 AP of detection and 67.5 % mIoU of segmentation on VOC (MoCo v2: 54.7, 64.5)",
                   {"optim.lr": 0.3, "train.epochs": 800}),
    "cifar": Preset("for 32 px: ResNet-18 with a 3x3 stem, maps of 4 x 4 places, 4096 keys; not measured",
                    {"backbone.name": "resnet18", "backbone.stem": "cifar", "method.queue_size": 4096, "method.momentum": 0.99, "method.hidden": 512},
                    both(SMALL)),
    "digits": Preset(
        "the built-in digits: a residual net of width 16, maps of 4 x 4 places, batch 64, 600 steps",
        {
            "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "method.queue_size": 256, "method.momentum": 0.5,
            "method.head_norm": "bn", "method.hidden": 128, "method.dim": 64, "optim.name": "adamw", "optim.lr": 8e-3, "optim.warmup_epochs": 0.5,
            "train.batch_size": 64, "train.norm_groups": 1, "train.steps": 600, "eval.every_epochs": 2,
        },
        both(DIGIT),
    ),
}  # fmt: skip


class DenseCL(Method):
    strided: ClassVar[tuple[str, ...]] = ("key", "key_map")

    queue: Tensor
    dense_queue: Tensor
    pointer: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        norm: Any = config.head_norm
        net: Any = self.backbone  # whose last feature map is in reach
        self.head = mlp(self.out_dim, config.hidden, config.dim, norm=norm, last_norm=norm)
        self.dense_head = pointwise(net.map_dim, config.hidden, config.dim, norm)
        self.key_backbone, self.key_head, self.key_dense_head = (
            copy.deepcopy(part).requires_grad_(False) for part in (self.backbone, self.head, self.dense_head)
        )
        self.register_buffer("queue", normalize(torch.randn(config.queue_size, config.dim)))  # (K, D)
        self.register_buffer("dense_queue", normalize(torch.randn(config.queue_size, config.dim)))  # (K, D)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @classmethod
    def needs_map(cls, config: Config) -> bool:
        return True

    @classmethod
    def limits(cls, config: Config, *, samples: int, batch: int) -> Mapping[str, Limit]:
        return {"queue_size": queue_limit(samples, batch)}

    def negatives(self, batch: int) -> int:
        return self.config.queue_size

    def ema_pairs(self):
        yield self.backbone, self.key_backbone
        yield self.head, self.key_head
        yield self.dense_head, self.key_dense_head

    def ema_momentum(self, clock: Clock) -> float:
        return self.config.momentum

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        net: Any = self.backbone
        h_query, query_map = net.feature_map(batch.views["query"])  # (B, F), (B, M, h, w)
        key_net: Any = self.key_backbone
        with torch.no_grad(), batch.norm("strided"):  # a key's norm group holds few of its query's company (see MoCo)
            h_key, key_map = key_net.feature_map(batch.views["key"])  # (B, F), (B, M, h, w)
        return {"query": h_query, "query_map": query_map, "key": h_key, "key_map": key_map}

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        config, size = self.config, batch.size
        query = normalize(self.head(reps["query"]))  # (B, D)
        places = cells(self.dense_head(reps["query_map"]))  # (B, L, D)
        with torch.no_grad(), batch.norm("strided"):
            key = normalize(self.key_head(reps["key"]))  # (B, D)
            projected = self.key_dense_head(reps["key_map"])  # (B, D, h, w)
            reps["enqueue"] = gather(key, size)  # (N, D)
            reps["dense_enqueue"] = gather(normalize(projected.mean((2, 3))), size)  # (N, D)
            key_places = counterparts(cells(reps["query_map"]), cells(reps["key_map"]), cells(projected))  # (B, L, D)
        single, found = info_nce(query, key, self.queue, config.temperature, size)
        pairs = (normalize(places).flatten(0, 1), normalize(key_places).flatten(0, 1))  # (B*L, D) each
        dense, dense_found = info_nce(*pairs, self.dense_queue, config.temperature, size * places.shape[1])
        loss = (1 - config.dense) * single + config.dense * dense
        return {"loss": loss, "contrast_top1": found, "dense_top1": dense_found}

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        slots = (self.pointer + torch.arange(batch.size, device=self.queue.device)) % len(self.queue)  # (N,)
        self.queue[slots] = reps["enqueue"].to(self.queue.dtype)
        self.dense_queue[slots] = reps["dense_enqueue"].to(self.queue.dtype)
        self.pointer.copy_((self.pointer + batch.size) % len(self.queue))


def pointwise(inputs: int, hidden: int, outputs: int, norm: str) -> nn.Sequential:
    """(B, M, h, w) -> (B, D, h, w): a head of each place by itself, two 1x1 convolutions."""
    layers = [nn.Conv2d(inputs, hidden, 1, bias=norm == "none"), norm_layer(norm, hidden), nn.ReLU(),
              nn.Conv2d(hidden, outputs, 1, bias=norm == "none"), norm_layer(norm, outputs)]  # fmt: skip
    return nn.Sequential(*[layer for layer in layers if not isinstance(layer, nn.Identity)])


def cells(maps: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, L, D), row by row."""
    return maps.flatten(2).transpose(1, 2)


@precise
def counterparts(query: Tensor, key: Tensor, projected: Tensor) -> Tensor:
    """For each place of the query's map (B, L, M) what the most alike place of the key's (B, L, M) was projected to (B, L, D) (eq. 4): (B, L, D)."""
    most = (normalize(query) @ normalize(key).transpose(1, 2)).argmax(2)  # (B, L)
    return projected.gather(1, most[..., None].expand(-1, -1, projected.shape[2]))
