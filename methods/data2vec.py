"""data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language.

Baevski et al., ICML 2022, https://arxiv.org/abs/2202.03555 (code: facebookresearch/data2vec_vision).
From an image with hidden blocks the student predicts, where they are, what its own slow average makes of the whole image: the mean of
its last blocks' outputs, which knows the context.

B batch rows, L patches, M hidden ones, D features of a token, K blocks that targets are made of
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._masks import blocks, front, hide
from ._parts import apart, average_of, narrow, pick, precise, standard
from ._ranks import full

PAPER = Paper(
    title="data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language",
    year=2022,
    url="https://arxiv.org/abs/2202.03555",
    contrasts="nothing: inner features of the average network are predicted where blocks are hidden",
    ema="constant",
    crops="1",
)
METRICS = {
    "loss": "smooth L1 distance of predictions and targets, whose features have mean 0 and variance 1: 0.25 where nothing is predicted",
    "target_spread": "standard deviation of targets' features over an image's hidden patches: near 0 they are all alike, which is collapse",
}
DIFFERS = (
    "exactly method.mask_ratio of the patches are hidden in each image, where the release's blocks may leave a few out",
    "positions are added to the patches, and attention drops nothing; the release has a relative position bias, and drops 5 %",
    "colours are jittered in the crop, the release's in the whole picture; class token and positions decay, the release's do not",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    mask_ratio: float = setting(
        0.612, "share of patches that are hidden, in blocks (120 of 196, §4.1)", unit="fraction", gt=0, lt=1
    )
    blocks: int = setting(6, "K, last blocks whose outputs are averaged (§4.1)", unit="blocks", ge=1)
    beta: float = setting(2.0, "where the smooth L1 loss turns from square to absolute (eq. 3)", gt=0)
    momentum: float = setting(0.9998, "momentum of the average network (§4.1)", ge=0, le=1)


VIEWS = {"view": View(crop=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0, interpolation="antialiased_cubic")}

RECIPE = {
    "backbone.name": "vit_base",
    "backbone.init": "beit",
    "backbone.drop_path": 0.25,
    "backbone.layer_scale": 1e-4,
    "optim.name": "adamw",
    "optim.lr": 2e-3,
    "optim.lr_scaling": "none",
    "optim.lr_end": 0.005,  # 1e-5
    "optim.weight_decay": 0.05,
    "optim.decay_norms": False,
    "optim.warmup_epochs": 10,
    "optim.warmup_start": 0.0005,  # 1e-6
    "optim.schedule": "cosine",
    "optim.clip": 3.0,
    "train.batch_size": 2048,
    "train.epochs": 800,
    "train.channels_last": False,
}
MINI = {
    "backbone.name": "vit_mini", "backbone.init": "moco_v3", "backbone.patch": 4, "backbone.drop_path": 0.0, "backbone.layer_scale": 0.0,
    "method.blocks": 3,
}  # fmt: skip

PRESETS = {
    "paper": Preset("ViT-B/16, batch 2048, 800 epochs: 84.2 % fine-tuned on ImageNet"),
    "cifar": Preset(
        "a ViT of 6 M parameters for 32 px, patches of 4 px; not run here",
        MINI | {"backbone.width": 192, "method.momentum": 0.999, "optim.lr": 1e-3, "train.batch_size": 512, "train.epochs": 300},
        {"view": View(size=32, crop=(0.2, 1.0))},
    ),
    "digits": Preset(
        "the built-in digits on a small ViT, patches of 4 px, batch 64, 500 steps: below its untrained encoder (with other masks: 22.6 and 33.3 % linear)",
        MINI | {"backbone.width": 64, "method.momentum": 0.96, "optim.lr": 2e-3, "optim.warmup_epochs": 1, "train.batch_size": 64,
                "train.steps": 500, "eval.every_epochs": 4},
        {"view": View(size=32, crop=(0.6, 1.0), flip=0.0)},
    ),
}  # fmt: skip


class Data2Vec(Method):
    couples: ClassVar[bool] = False
    reach: ClassVar[tuple[str, ...]] = (*Method.reach, "project", "inner")

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        depth = getattr(self.backbone, "depth", config.blocks)
        if config.blocks > depth:
            raise ValueError(f"blocks: got {config.blocks}, must be at most the {depth} of the backbone")
        self.mask_token = nn.Parameter(narrow(torch.empty(1, self.out_dim)))  # (1, D): it decays
        self.predictor = nn.Linear(self.out_dim, self.out_dim)
        narrow(self.predictor.weight)
        nn.init.zeros_(self.predictor.bias)
        self.teacher = average_of(self.backbone)

    @classmethod
    def needs_vit(cls, config: Config) -> bool:
        return True

    def ema_pairs(self):
        yield self.backbone, self.teacher

    def ema_momentum(self, clock: Clock) -> float:
        return self.config.momentum

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        net: Any = self.backbone
        images = batch.views["view"]
        side = images.shape[-1] // net.patch_size
        count = max(1, round(side**2 * self.config.mask_ratio))
        order = blocks(batch.rand("blocks", (32, 4)), side, 16 / 196, count)  # (B, L), hidden ones first
        places = order[:, :count]  # (B, M)
        _, patches = apart(net, net.tokens(hide(net, images, front(order, count), self.mask_token)))  # (B, L, D)
        with torch.no_grad():
            targets = pick(self.targets(images), places)  # (B, M, D)
        return {"hidden": pick(patches, places), "targets": targets}

    def targets(self, images: Tensor) -> Tensor:
        """(B, L, D): the mean of the last K blocks' outputs of the whole image, each token normalised before and after (§3.3)."""
        net: Any = self.teacher
        inner = [apart(net, tokens)[1] for tokens in net.inner(net.patches(images), self.config.blocks)]  # K of (B, L, D)
        return standard(torch.stack([standard(x) for x in inner]).mean(0))

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        loss, spread = regress(self.predictor(reps["hidden"]), reps["targets"], self.config.beta, batch.size)
        return {"loss": loss, "target_spread": spread}

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.taps(inputs)["tokens"].mean(1)  # (B, D)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        net: Any = self.backbone
        whole, patches = apart(net, net.tokens(net.patches(inputs["image"])))  # (B, D), (B, L, D)
        return {"backbone": whole, "tokens": patches}


@precise
def regress(predicted: Tensor, targets: Tensor, beta: float, size: int) -> tuple[Tensor, Tensor]:
    """Smooth L1 (eq. 3) of predictions (B, M, D), the mean over hidden patches, features and the global batch; and the targets' spread over
    the patches of an image. Shares of this rank.
    """
    wide = full(targets)
    loss = F.smooth_l1_loss(full(predicted), wide, beta=beta, reduction="none").mean((1, 2)).sum() / size
    return loss, wide.std(1, correction=0).mean(1).sum() / size
