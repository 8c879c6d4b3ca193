"""SigLIP: Sigmoid Loss for Language Image Pre-Training.

Zhai, Mustafa, Kolesnikov & Beyer, ICCV 2023, https://arxiv.org/abs/2303.15343 (code: google-research/big_vision).
CLIP's two towers, asked of each pair of an image and a text by itself whether they belong together: no softmax over the batch.

B batch rows, N rows of the global batch, D projected features
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Clock, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import precise
from ._ranks import gather
from ._similarity import hits, tiled
from ._towers import DIGITS_VIEWS, SMALL_TEXT, TwoTowers

PAPER = Paper(
    title="Sigmoid Loss for Language Image Pre-Training",
    year=2023,
    url="https://arxiv.org/abs/2303.15343",
    contrasts="each pair of an image and a caption of the batch by itself: whether they belong together",
    negatives="batch",
    crops="1 and a text",
)
METRICS = {
    "loss": "binary cross-entropy of all pairs of an image and a text of the batch, summed over the texts, the mean over images",
    "match_top1": "share of images whose own text is the nearest of the batch",
    "temperature": "the learned temperature that similarities are divided by",
    "bias": "the learned bias of every pair; at its start nearly all pairs count as apart, as in a large batch they are",
}
DIFFERS = (
    "texts are read as in CLIP, causally and up to their end; the release's towers pool by attention, and its texts are of 32,000 SentencePiece words",
    "of a picture that is no square the middle is seen; the release squeezes all of it into one",
    "AdamW in the place of Adafactor, whose second moments are factored; epochs in the place of billions of examples seen",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.1, "temperature at the start; it is learned (§3.2: t' = ln 10)", gt=0)
    bias: float = setting(-10.0, "bias of every pair at the start; it is learned (§3.2)", le=0)
    towers: Literal["two", "shared"] = setting("two", "a transformer of its own for texts, or the image's (a ViT) for both")
    text_width: int = setting(768, "features of a token of the text's own transformer (§4.2: base)", unit="features", ge=4)
    text_blocks: int = setting(12, "blocks of the text's own transformer (§4.2: base)", unit="blocks", ge=1)
    text_heads: int = setting(12, "attention heads of the text's own transformer; text_width is a multiple", ge=1)
    vocabulary: int = setting(258, "tokens of texts: 258 (bytes), 49408 with views.text.merges (byte pairs)", ge=258)
    dim: int = setting(768, "width of the space that images and texts share", unit="features", ge=1)
    longest: int = setting(
        256, "tokens of the longest text that there are places for; at least the view's size", unit="tokens", ge=2
    )


VIEWS = {"image": View(crop=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0), "text": View(source="caption", kind="tokens", size=64)}

RECIPE = {
    "backbone.name": "vit_base",
    "optim.name": "adamw",
    "optim.lr": 1e-3,
    "optim.lr_scaling": "none",
    "optim.betas": (0.9, 0.95),
    "optim.weight_decay": 1e-4,
    "optim.warmup_epochs": 0.1,
    "optim.schedule": "cosine",
    "train.batch_size": 32768,
    "train.epochs": 4,
    "train.channels_last": False,
}
RELEASE = {"optim.decay_norms": False, "optim.clip": 1.0}  # big_vision decays kernels alone
RESNET = {"backbone.stem": "cifar", "train.channels_last": "auto"}
DIGITS = SMALL_TEXT | {
    "optim.lr": 3e-3, "optim.weight_decay": 1e-2, "optim.warmup_epochs": 0.5, "train.batch_size": 64, "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip

PRESETS = {
    "paper": Preset("ViT-B/16 and a text transformer on image-text pairs, batch 32,768; captions in the column caption", RELEASE),
    "small": Preset("ViT-S/16 and a text tower of 4 blocks for sets of a few million pairs, batch 1024",
                    RELEASE | {"backbone.name": "vit_small", "method.text_width": 256, "method.text_blocks": 4, "method.text_heads": 4, "method.dim": 384,
                     "train.batch_size": 1024, "train.epochs": 32, "optim.warmup_epochs": 1}),
    "cifar": Preset("ResNet-18 with a 3x3 stem and a small text tower, for pictures of 32 px with captions; not measured",
                    SMALL_TEXT | RESNET | {"backbone.name": "resnet18", "train.batch_size": 256, "train.epochs": 100, "optim.warmup_epochs": 1},
                    {"image": replace(VIEWS["image"], size=32), "text": VIEWS["text"]}),
    "digits": Preset("the built-in digits and their captions (which name the digit): a residual net of width 16, batch 64, 600 steps",
                     DIGITS | RESNET | {"backbone.name": "resnet_small", "backbone.width": 16}, DIGITS_VIEWS),
    "digits_shared": Preset("the digits and their captions through one small ViT",
                            DIGITS | {"method.towers": "shared", "backbone.name": "vit_mini", "backbone.width": 64, "backbone.patch": 4}, DIGITS_VIEWS),
}  # fmt: skip


class SigLIP(TwoTowers):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.bias = nn.Parameter(torch.tensor(config.bias))

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        image, text = self.project(reps)  # (B, D)
        scale = self.log_scale.exp()
        loss, accuracy = pair(image, text, scale, self.bias, batch.slot, batch.size)
        share = len(image) / batch.size
        learned = {"temperature": share * (1 / scale).detach(), "bias": share * self.bias.detach()}
        return {"loss": loss, "match_top1": accuracy} | learned


@precise
def pair(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, slot: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of each pair (§3.2, algorithm 1) of images and texts (B, D), all L2-normalised; this rank's shares of loss and accuracy.

    Own images meet all N texts of the global batch, which get the gradient of every rank's images.
    """
    loss, found = tiled(_pairs, (image, slot), (gather(text, size), scale, bias), size)
    return loss / size, found / size


def _pairs(image: Tensor, slot: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over images (R, D) of their pairs with all texts (N, D); the own text is at `slot` (R,)."""
    logits = scale * (image @ text.T) + bias  # (R, N)
    own = logits.gather(1, slot[:, None])  # (R, 1)
    return F.softplus(logits).sum() - own.sum(), hits(logits, slot)  # softplus(-x) = softplus(x) - x
