"""InstDisc: Unsupervised Feature Learning via Non-Parametric Instance Discrimination.

Wu, Xiong, Yu & Lin, CVPR 2018, https://arxiv.org/abs/1805.01978 (code: zhirongw/lemniscate.pytorch).
Every image is its own class; the classifier's weights are the images' own past features, kept in a memory bank.

B batch rows, N rows of the global batch, F backbone features, D projected features, K drawn negatives
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import bank_scores, constant_of, mlp, nce, new_bank, normalize, precise, write_bank
from ._ranks import gather
from ._similarity import identify

PAPER = Paper(
    title="Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    year=2018,
    url="https://arxiv.org/abs/1805.01978",
    contrasts="an image against its own past feature and those of drawn images",
    negatives="memory bank",
    crops="1",
)
METRICS = {
    "loss": "noise-contrastive estimation of an image's own bank row among drawn ones, or cross-entropy among all; with the proximal term, if any",
    "contrast_top1": "share of images whose own bank row scores above all drawn ones",
}
DIFFERS = (
    "method.head_norm, none in the paper, is batch norm in the presets of a few hundred steps",
    "networks begin by Kaiming's rule; the releases' as torch draws them, 2.5 times smaller in their later stages",
    "eval embeds the training images afresh; the release's ImageNet test compares with the bank",
    "knn_top1 is of the backbone's features; published numbers are of the 128 dimensions that the loss compares: knn_embedding_top1",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.07, "temperature of the softmax (§3.1; CIFAR: 0.1)", gt=0)
    negatives: int = setting(
        4096, "images drawn from the bank per image (§3.2); 0: the softmax over all of them (§3.1, eq. 2)", unit="images", ge=0
    )
    bank_momentum: float = setting(0.5, "how much of its past feature a bank row keeps (released code)", ge=0, lt=1)
    proximal: float = setting(0.0, "lambda, weight of the squared step from the past feature (§3.3; released code: none)", ge=0)
    dim: int = setting(128, "width of the embedding (§4)", unit="features", ge=1)
    head_norm: Literal["none", "bn"] = setting("none", "norm of the embedding (paper: none); runs of a few hundred steps need bn")


VIEWS = {"view": View(crop=(0.2, 1.0), interpolation="antialiased", jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, gray=0.2,
                      gray_order="before_jitter")}  # fmt: skip

RECIPE = {
    "eval.knn.embedding": True,
    "backbone.name": "resnet50",
    "optim.name": "sgd",
    "optim.lr": 0.03,
    "optim.weight_decay": 1e-4,
    "optim.schedule": "step",
    "optim.milestones": (0.6, 0.8),
    "train.batch_size": 256,
    "train.epochs": 200,
}
PIXELS = {"augment.mean": (0.4914, 0.4822, 0.4465), "augment.std": (0.2023, 0.1994, 0.2010)}  # the release's cifar.py
# as the release's cifar.py
CIFAR_VIEW = replace(VIEWS["view"], size=32, interpolation="linear", flip=0.0, gray_order="after_jitter")
DIGITS = {
    "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "method.temperature": 0.1, "method.negatives": 1024,
    "method.dim": 64, "method.head_norm": "bn", "optim.name": "adamw", "optim.lr": 6e-3, "optim.schedule": "cosine", "optim.warmup_epochs": 0.5, "train.batch_size": 128,
    "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip
DIGITS_VIEWS = {"view": replace(CIFAR_VIEW, crop=(0.6, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8)}

PRESETS = {
    "paper": Preset("ResNet-50, 4096 negatives, 200 epochs: 54.0 % linear on ImageNet"),
    "softmax": Preset("paper with the softmax over all images in place of drawn ones: for sets of some 100,000 images", {"method.negatives": 0}),
    "proximal": Preset("paper with the proximal term of §3.3, lambda 30", {"method.proximal": 30.0}),
    "cifar": Preset(
        "ResNet-18 with a 3x3 stem, temperature 0.1",
        {"backbone.name": "resnet18", "backbone.stem": "cifar", "method.temperature": 0.1, "optim.lr": 0.06, "optim.weight_decay": 5e-4,
         "train.batch_size": 128, "eval.knn.temperature": 0.1} | PIXELS,
        {"view": CIFAR_VIEW},
    ),
    "cifar_short": Preset(
        "a residual net of width 16 for a dozen epochs, slow enough for rows of the bank that are an epoch old",
        DIGITS | {"optim.lr": 1.5e-3}, {"view": CIFAR_VIEW},
    ),
    "digits": Preset("the built-in digits: a residual net of width 16, batch 128, 600 steps", DIGITS, DIGITS_VIEWS),
    "digits_proximal": Preset("the digits with the proximal term", DIGITS | {"method.proximal": 1.0}, DIGITS_VIEWS),
}  # fmt: skip


class InstDisc(Method):
    bank: Tensor
    constant: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.head = mlp(self.out_dim, config.dim, last_norm=config.head_norm)
        self.register_buffer("bank", new_bank(samples, config.dim))  # (dataset, D)
        self.register_buffer("constant", torch.zeros(()))  # Z; 0 until the first step

    def negatives(self, batch: int) -> int:
        return self.config.negatives or len(self.bank) - 1

    def embedding(self, features: Tensor) -> Tensor:
        return normalize(self.head(features))  # (B, D)

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {"h": self.backbone(batch.views["view"])}  # (B, F)

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        v = normalize(self.head(reps["h"]))  # (B, D)
        if self.config.negatives:
            loss, accuracy, constant = self.drawn(v, batch)
        else:
            loss, accuracy = among_all(v, self.bank, batch.index, self.config.temperature, batch.size)
            constant = self.constant
        if self.config.proximal:
            loss = loss + self.config.proximal * (v - self.bank[batch.index]).square().sum() / batch.size
        reps |= {"constant": constant, "rows": gather(v.detach(), batch.size), "index": gather(batch.index, batch.size)}
        return {"loss": loss, "contrast_top1": accuracy}

    def drawn(self, v: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Noise-contrastive estimation (eq. 7) of v (B, D): the loss, the accuracy, Z."""
        draws = batch.rand("candidates", (self.config.negatives,), torch.float64)  # (B, K)
        scores = bank_scores(v, self.bank, batch.index, draws, self.config.temperature)  # (B, 1+K)
        samples = len(self.bank)
        constant = torch.where(self.constant > 0, self.constant, constant_of(scores, samples, batch.size).to(self.constant))
        loss = nce(scores, constant, samples, batch.size)
        return loss, (scores.detach().argmax(1) == 0).to(loss.dtype).sum() / batch.size, constant

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        self.constant.copy_(reps["constant"])
        write_bank(self.bank, reps["index"], reps["rows"], self.config.bank_momentum)


@precise
def among_all(v: Tensor, bank: Tensor, index: Tensor, temperature: float, size: int) -> tuple[Tensor, Tensor]:
    """The softmax over the whole bank (eq. 2): -log P(own row) of v (B, D), L2-normalised; this rank's shares of loss and accuracy."""
    loss, found = identify(v, bank, index, temperature)
    return loss / size, found / size
