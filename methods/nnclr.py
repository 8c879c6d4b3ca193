"""NNCLR: With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations.

Dwibedi, Aytar, Tompson, Sermanet & Zisserman, ICCV 2021, https://arxiv.org/abs/2104.14548.
SimCLR whose positive is another image: the nearest of a queue of older embeddings to one view should be found by the prediction of the other.

B batch rows, N rows of the global batch, F backbone features, D projected features, K queue
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Limit, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import mlp, normalize, precise
from ._ranks import gather
from ._recipes import SOLO_DIFFERS, SOLO_LARS, SOLO_LEARN, SOLO_START
from ._similarity import identify

PAPER = Paper(
    title="With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations",
    year=2021,
    url="https://arxiv.org/abs/2104.14548",
    contrasts="the nearest older embedding of one view against the batch's predictions from the other",
    negatives="batch",
    queue="yes",
    predictor="yes",
)
METRICS = {
    "loss": "InfoNCE of a view's nearest neighbour in the queue among the batch's predictions from the other view; log N at chance",
    "contrast_top1": "share of neighbours to which the own prediction is the nearest of the batch",
    "neighbour_similarity": "mean cosine of a view's embedding with its nearest neighbour in the queue; it rises as the queue becomes a support of the data",
}
DIFFERS = (
    "no code was released: rate, queue, batch and epochs are recalled from the paper, not checked against it, and that views are SimCLR's rests on "
    "lightly's documentation",
    SOLO_DIFFERS,
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.1, "temperature of InfoNCE (§4.1)", gt=0)
    queue_size: int = setting(98304, "embeddings in the support set (§4.1); at least the batch", unit="embeddings", ge=1)
    hidden: int = setting(2048, "width of the projector's two hidden layers (§4.1)", unit="features", ge=1)
    predictor_hidden: int = setting(4096, "width of the predictor's hidden layer (§4.1)", unit="features", ge=1)
    dim: int = setting(256, "d, width of the projected space (§4.1)", unit="features", ge=1)


_VIEW = View(crop=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray=0.2, blur=0.5, interpolation="cubic")
VIEWS = {"first": _VIEW, "second": _VIEW}  # as SimCLR

RECIPE = {
    "backbone.name": "resnet50",
    "backbone.zero_init_residual": True,
    "optim.name": "lars",
    "optim.lr": 0.3,
    "optim.weight_decay": 1e-6,
    "optim.warmup_epochs": 10,
    "optim.schedule": "cosine",
    "train.batch_size": 4096,
    "train.epochs": 1000,
}


def both(*own: dict[str, Any], **changes: Any) -> dict[str, View]:
    """The views for small images, with changes to each and to both."""
    pairs = zip(VIEWS.items(), own or ({}, {}), strict=True)
    return {
        name: replace(view, **{"size": 32, "blur": 0.0, "interpolation": "linear"} | changes | of) for (name, view), of in pairs
    }


PRESETS = {
    "paper": Preset("ResNet-50, batch 4096, 1000 epochs: 75.6 % linear on ImageNet"),
    "cifar": Preset(
        SOLO_LEARN.format("91.88"),
        SOLO_LARS | {"method.temperature": 0.2, "method.queue_size": 65536, "optim.lr": 0.4, "optim.warmup_start": SOLO_START / 0.4,
                     "optim.weight_decay": 1e-5},
        both({}, {"solarize": 0.2}, jitter=(0.4, 0.4, 0.2, 0.1), interpolation="cubic"),
    ),
    "digits": Preset(
        "the built-in digits: a residual net of width 16, batch 64, 600 steps",
        {
            "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "backbone.zero_init_residual": False,
            "method.temperature": 0.2, "method.queue_size": 512, "method.hidden": 128, "method.predictor_hidden": 128, "method.dim": 64,
            "optim.name": "adamw", "optim.lr": 6e-3, "optim.weight_decay": 1e-4, "optim.warmup_epochs": 0.5, "train.batch_size": 64,
            "train.steps": 600, "eval.every_epochs": 2,
        },
        both(crop=(0.8, 1.0), flip=0.0, jitter=(0.2, 0.2, 0.2, 0.05)),
    ),
}  # fmt: skip


class NNCLR(Method):
    queue: Tensor
    pointer: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.projector = mlp(self.out_dim, config.hidden, config.hidden, config.dim, last_norm="bn")
        self.predictor = mlp(config.dim, config.predictor_hidden, config.dim)
        self.register_buffer("queue", normalize(torch.randn(config.queue_size, config.dim)))  # (K, D)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @classmethod
    def limits(cls, config: Config, *, samples: int, batch: int) -> Mapping[str, Limit]:
        most = max(batch, 2 * samples)
        return {
            "queue_size": Limit(batch, most, "the global batch, which it takes in each step", "twice the samples", samples // 2)
        }

    def negatives(self, batch: int) -> int:
        return batch - 1

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {name: self.backbone(batch.views[name]) for name in ("first", "second")}  # (B, F) each

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        z0, z1 = (self.projector(h) for h in reps.values())  # (B, D)
        p0, p1 = (normalize(self.predictor(z)) for z in (z0, z1))  # (B, D)
        with torch.no_grad():
            z0, z1 = normalize(z0), normalize(z1)
            (friend0, near0), (friend1, near1) = (nearest(z, self.queue) for z in (z0, z1))  # (B, D), (B,)
            reps["enqueue"] = gather(z0, batch.size)  # (N, D)
        terms = [contrast(*pair, self.config.temperature, batch.slot, batch.size) for pair in ((friend0, p1), (friend1, p0))]
        (loss0, found0), (loss1, found1) = terms
        similarity = (near0 + near1).sum() / (2 * batch.size)
        return {"loss": (loss0 + loss1) / 2, "contrast_top1": (found0 + found1) / 2, "neighbour_similarity": similarity}

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        places = (self.pointer + torch.arange(batch.size, device=self.queue.device)) % len(self.queue)  # (N,)
        self.queue[places] = reps["enqueue"].to(self.queue.dtype)
        self.pointer.copy_((self.pointer + batch.size) % len(self.queue))


@precise
def nearest(z: Tensor, queue: Tensor) -> tuple[Tensor, Tensor]:
    """For each of (B, D) unit rows the nearest of the queue (K, D), and its cosine (B,)."""
    similarity, place = (z @ queue.to(z.dtype).T).max(1)
    return queue[place].to(z.dtype), similarity


@precise
def contrast(friend: Tensor, predicted: Tensor, temperature: float, slot: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """InfoNCE of neighbours (B, D) among the predictions of the global batch (eq. 2); this rank's shares of loss and accuracy.

    The gradient is the predictions', of every rank's rows; neighbours are of the past.
    """
    loss, found = identify(friend, gather(predicted, size), slot, temperature)
    return loss / size, found / size
