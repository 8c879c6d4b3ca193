"""CLIP: Learning Transferable Visual Models From Natural Language Supervision.

Radford et al., ICML 2021, https://arxiv.org/abs/2103.00020 (code: openai/CLIP); `shared`: one transformer for both, as in MA-CLIP
(You et al. 2022, arXiv 2207.12661). An image and its caption find each other among the batch.

B batch rows, N rows of the global batch, L tokens, F backbone features, W width of the text tower, D projected features
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ._base import Batch, Clock, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import precise
from ._ranks import gather
from ._similarity import identify
from ._towers import DIGITS_VIEWS, SMALL_TEXT, TwoTowers

PAPER = Paper(
    title="Learning Transferable Visual Models From Natural Language Supervision",
    year=2021,
    url="https://arxiv.org/abs/2103.00020",
    contrasts="an image against all captions of the batch, and a caption against all images",
    negatives="batch",
    crops="1 and a text",
)
METRICS = {
    "loss": "InfoNCE of an image among all captions of the batch and of a caption among all images, their mean; log N at chance",
    "match_top1": "share of images and captions whose partner is the nearest of the batch",
    "temperature": "the learned temperature that similarities are divided by; the smaller, the harder the softmax",
}
DIFFERS = (
    "GELU is exact, the release's is x sigmoid(1.702 x); crops have any aspect ratio from 3/4 to 4/3, the paper's are squares",
    "texts are bytes unless views.text.merges names the file of the release's byte pairs; the image tower is a plain ResNet-50 without attention pooling",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.07, "temperature at the start; it is learned (§2.5)", gt=0)
    largest_scale: float = setting(100.0, "bound of the learned 1 / temperature (§2.5)", ge=1)
    towers: Literal["two", "shared"] = setting("two", "a transformer of its own for texts, or the image's (a ViT) for both")
    text_width: int = setting(512, "W, features of a token of the text's own transformer (§2.4)", unit="features", ge=4)
    text_blocks: int = setting(12, "blocks of the text's own transformer (§2.4)", unit="blocks", ge=1)
    text_heads: int = setting(8, "attention heads of the text's own transformer (§2.4); text_width is a multiple", ge=1)
    vocabulary: int = setting(258, "tokens of texts: 258 (bytes), 49408 with views.text.merges (byte pairs)", ge=258)
    dim: int = setting(512, "width of the space that images and texts share", unit="features", ge=1)
    longest: int = setting(
        256, "tokens of the longest text that there are places for; at least the view's size", unit="tokens", ge=2
    )


VIEWS = {
    "image": View(crop=(0.9, 1.0), flip=0.0, interpolation="antialiased_cubic"),
    "text": View(source="caption", kind="tokens", size=77),
}

RECIPE = {
    "backbone.name": "resnet50",
    "backbone.zero_init_residual": True,
    "optim.name": "adamw",
    "optim.lr": 5e-4,
    "optim.lr_scaling": "none",
    "optim.betas": (0.9, 0.98),
    "optim.weight_decay": 0.2,
    "optim.decay_norms": False,
    "optim.warmup_epochs": 0.16,
    "optim.schedule": "cosine",
    "train.batch_size": 32768,
    "train.epochs": 32,
}
PIXELS = {"augment.mean": (0.4815, 0.4578, 0.4082), "augment.std": (0.2686, 0.2613, 0.2758)}  # of the release's pairs
VIT = {"method.towers": "shared", "train.channels_last": False}
DIGITS = SMALL_TEXT | {
    "backbone.zero_init_residual": False, "optim.lr": 3e-3, "optim.weight_decay": 1e-2, "optim.warmup_epochs": 0.5,
    "train.batch_size": 64, "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip

PRESETS = {
    "paper": Preset("ResNet-50 and a text transformer on 400 million pairs, batch 32,768; captions in the column caption",
                    PIXELS | {"method.dim": 1024, "optim.betas": (0.9, 0.999)}),  # .98 of a ViT
    "small": Preset("ResNet-50 and a text tower of 4 blocks for sets of a few million pairs, batch 1024",
                    {"method.text_width": 256, "method.text_blocks": 4, "method.text_heads": 4, "train.batch_size": 1024, "optim.warmup_epochs": 1}),
    "shared": Preset("one ViT-S/16 for images and texts, batch 1024",
                     VIT | {"backbone.name": "vit_small", "train.batch_size": 1024, "optim.warmup_epochs": 1}),
    "cifar": Preset("ResNet-18 with a 3x3 stem and a small text tower, for pictures of 32 px with captions",
                    SMALL_TEXT | {"backbone.name": "resnet18", "backbone.stem": "cifar", "optim.lr": 1e-3, "train.batch_size": 256, "train.epochs": 100},
                    {"image": replace(VIEWS["image"], size=32, interpolation="linear"), "text": VIEWS["text"]}),
    "digits": Preset("the built-in digits and their captions (which name the digit): a residual net of width 16, batch 64, 600 steps",
                     DIGITS | {"backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16}, DIGITS_VIEWS),
    "digits_shared": Preset("the digits and their captions through one small ViT",
                            VIT | DIGITS | {"backbone.name": "vit_mini", "backbone.width": 64, "backbone.patch": 4}, DIGITS_VIEWS),
}  # fmt: skip


class CLIP(TwoTowers):
    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        image, text = self.project(reps)  # (B, D)
        scale = self.log_scale.exp()
        loss, accuracy = match(image, text, scale, batch.slot, batch.size)
        return {"loss": loss, "match_top1": accuracy, "temperature": (1 / scale).detach() * len(image) / batch.size}

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        self.log_scale.clamp_(max=math.log(self.config.largest_scale))  # the parameter: at its bound it can still learn (§2.5)


@precise
def match(image: Tensor, text: Tensor, scale: Tensor, slot: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE (figure 3) of images and texts (B, D), all L2-normalised; this rank's shares of loss and accuracy.

    The mean of the two directions: an image among the N texts of the global batch, a text among the N images.
    """
    by_image, found_texts = identify(image, gather(text, size), slot, 1 / scale)
    by_text, found_images = identify(text, gather(image, size), slot, 1 / scale)
    return (by_image + by_text) / (2 * size), (found_texts + found_images) / (2 * size)
