"""Distillation: a student learns a frozen teacher's features of unlabelled images.

Beyer, Zhai, Royer, Markeeva, Anil & Kolesnikov, CVPR 2022, https://arxiv.org/abs/2106.05237: teacher and student see the same crop, for long.
The losses are lightly-train's `distillationv3` (code: lightly-ai/lightly-train): the teacher's features of other images stand in for classes, and
places within an image are to resemble each other as they do for the teacher.

B batch rows, N rows of the global batch, F student features, T teacher features, K kept features, L places of the teacher's map, U its features
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Clock, Limit, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import normalize, precise
from ._ranks import gather

PAPER = Paper(
    title="Knowledge Distillation: A Good Teacher Is Patient and Consistent",
    year=2022,
    url="https://arxiv.org/abs/2106.05237",
    contrasts="a student's features with those of a frozen teacher, by their likeness to the teacher's features of other images",
    queue="yes",
    crops="1",
)
METRICS = {
    "loss": "whole_loss + method.local x local_loss",
    "whole_loss": "KL divergence of the student's from the teacher's likeness to the queue: 0 where they agree, at most about 2 / method.temperature + ln K",
    "local_loss": "KL divergence of the student's from the teacher's likeness of places within an image; 0 where method.local is 0",
    "cosine": "cosine of the student's projected feature and the teacher's: 0 unrelated, 1 the same",
}
DIFFERS = (
    "the paper distils class probabilities; features are distilled here, by the losses of lightly-train's distillationv3",
    "images are not mixed with each other (mixup), which both do: a row would need the images of rows that other workers hold",
    "the queue is that of the global batch; lightly-train's is each GPU's own",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    teacher: str = setting(
        "",
        "what is distilled: a public file, a run's name, id or folder, an export, timm/NAME or torchvision/NAME; untrained: the student's network as another "
        "seed draws it",
    )
    teacher_size: int = setting(0, "side that the teacher's images are resized to; 0: as the student's", unit="px", ge=0)
    queue_size: int = setting(8192, "teacher features that stand in for classes, this batch's among them", unit="images", ge=1)
    temperature: float = setting(0.07, "temperature of the likeness to the queue", gt=0)
    local: float = setting(1.0, "weight of the places within an image; 0: features of whole images alone", ge=0)
    local_temperature: float = setting(0.07, "temperature of the likeness of places", gt=0)


VIEWS = {"view": View(crop=(0.14, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray=0.2, interpolation="area")}

RECIPE = {
    "backbone.name": "resnet18",
    "optim.name": "adamw",
    "optim.lr": 1.2758e-5,  # 5e-4 at a batch of 1536
    "optim.lr_scaling": "sqrt",
    "optim.decay_norms": False,
    "optim.weight_decay": 1e-6,  # of residual nets; 0.04 of transformers
    "optim.clip": 1.0,
    "optim.warmup_epochs": 10,
    "optim.schedule": "cosine",
    "train.batch_size": 512,
    "train.epochs": 300,
}
SMALL_VIEW = replace(VIEWS["view"], size=32, interpolation="linear")
PRESETS = {
    "paper": Preset("lightly-train's distillationv3 for a ResNet-18 of 224 px; --method.teacher says whom it learns from"),
    "cifar": Preset(
        "a ResNet-18 with a 3x3 stem for 32 px; --method.teacher_size 224 for a teacher of photos",
        {"backbone.stem": "cifar", "method.queue_size": 4096, "train.batch_size": 256, "train.epochs": 200},
        {"view": SMALL_VIEW},
    ),
    "digits": Preset(
        "the built-in digits: a residual net of width 8, 600 steps of batch 64. Without --method.teacher an untrained network is the teacher",
        {
            "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 8, "method.teacher": "untrained",
            "method.queue_size": 512, "optim.lr": 6e-3, "optim.lr_scaling": "linear", "optim.warmup_epochs": 0.5,
            "train.batch_size": 64, "train.steps": 600, "eval.every_epochs": 2,
        },
        {"view": replace(SMALL_VIEW, crop=(0.8, 1.0), flip=0.0, jitter=(0.2, 0.2, 0.2, 0.05))},  # a mirrored 2 is no digit
    ),
}  # fmt: skip


class Distill(Method):
    guides: ClassVar[tuple[str, ...]] = ("teacher",)

    queue: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        student: Any = self.backbone
        teacher = self.frozen.get("teacher", student)
        self.projector = projection(self.out_dim, teacher.out_dim)
        self.local_projector = projection(student.map_dim, teacher.map_dim) if config.local else None
        self.register_buffer("queue", torch.zeros(config.queue_size, teacher.out_dim))  # (K, T)

    @classmethod
    def needs_map(cls, config: Config) -> bool:
        return config.local > 0

    @classmethod
    def limits(cls, config: Config, *, samples: int, batch: int) -> Mapping[str, Limit]:
        least_is = "the global batch, which it takes in each step"
        return {"queue_size": Limit(batch, max(batch, samples), least_is, "the training images", max(samples // 3, 1))}

    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        if not config.teacher:
            raise ValueError("teacher: say what is to be distilled: a file, a run, an export, timm/NAME or torchvision/NAME")

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        images, student = batch.views["view"], self.backbone
        features, places = student.feature_map(images) if self.config.local else (student(images), None)  # pyright: ignore
        target, target_places = self.frozen["teacher"](self.seen(images))  # (B, T), (B, U, h, w)
        if places is None:
            return {"features": features, "target": target}
        return {"features": features, "target": target, "places": places, "target_places": target_places}

    def seen(self, images: Tensor) -> Tensor:
        """The teacher's images: the same ones, in [0, 1], of its size."""
        pixels, side = self.pixels(images), self.config.teacher_size
        return F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1) if side else pixels

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        student, target = normalize(self.projector(reps["features"])), normalize(reps["target"])  # (B, T)
        reps["queue"] = queue = torch.cat([gather(target, batch.size), self.queue])[: len(self.queue)].detach()  # (K, T)
        whole = divergence(student @ queue.T, target @ queue.T, self.config.temperature) / batch.size
        local = torch.zeros_like(whole)
        if self.local_projector is not None:
            target_places = reps["target_places"]
            places = self.local_projector(reps["places"].flatten(2).transpose(1, 2))  # (B, l, U)
            places = resized(
                places.transpose(1, 2).unflatten(2, reps["places"].shape[2:]), target_places.shape[2:]
            )  # (B, U, h, w)
            likeness, wanted = (resemblance(each.flatten(2).transpose(1, 2)) for each in (places, target_places))  # (B, L, L)
            local = divergence(likeness, wanted, self.config.local_temperature) / (batch.size * wanted.shape[1])
        agreed = (student * target).sum().detach() / batch.size
        return {"loss": whole + self.config.local * local, "whole_loss": whole, "local_loss": local, "cosine": agreed}

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        self.queue.copy_(reps["queue"])


def projection(inputs: int, outputs: int) -> nn.Linear:
    """From the student's features to the teacher's."""
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    return layer


@precise
def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The sum over rows (..., K) of KL(teacher || student), each a softmax of likenesses over the temperature."""
    wanted = (teacher / temperature).softmax(-1)
    return F.kl_div((student / temperature).log_softmax(-1), wanted, reduction="sum")


@precise
def resemblance(places: Tensor) -> Tensor:
    """(B, L, D) -> (B, L, L) cosines of an image's places with each other."""
    unit = normalize(places)
    return unit @ unit.transpose(1, 2)


def resized(cells: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, D, h, w) -> (B, D, *size), bilinear: as a product of matrices, whose gradient adds in one order on a GPU too."""
    if cells.shape[2:] == size:
        return cells
    rows, columns = (
        F.interpolate(torch.eye(before, dtype=cells.dtype, device=cells.device)[None], after, mode="linear")[0]
        for before, after in zip(cells.shape[2:], size, strict=True)
    )  # (h, H), (w, W)
    return torch.einsum("bdhw,hy,wx->bdyx", cells, rows, columns)
