"""MAE: Masked Autoencoders Are Scalable Vision Learners.

He, Chen, Xie, Li, Dollar & Girshick, CVPR 2022, https://arxiv.org/abs/2111.06377 (code: facebookresearch/mae).
An encoder sees a quarter of an image's patches; a light decoder paints the others.

B batch rows, L patches, L' visible patches, D features of a token, E features of the decoder, P values of a patch
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reconstruction, Reps, View, setting
from ._parts import apart, input_channels, patchify, pick, precise, sincos_2d, transformer, xavier
from ._ranks import full

PAPER = Paper(
    title="Masked Autoencoders Are Scalable Vision Learners",
    year=2022,
    url="https://arxiv.org/abs/2111.06377",
    contrasts="nothing: masked patches are reconstructed from visible ones",
    crops="1",
)
METRICS = {
    "loss": "mean squared error of the masked patches; with method.target norm_pix each patch has variance 1, so that 1 is what painting its mean costs",
}
DIFFERS = (
    "fine-tuning (eval finetune_mae) classifies the class token, as the paper, and decays it; the release the mean of the patches, and spares the token",
    "the patch projection begins without a bias, the release's with torch's",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    mask_ratio: float = setting(0.75, "share of patches that are masked (figure 5)", unit="fraction", gt=0, lt=1)
    target: Literal["norm_pix", "pixels"] = setting(
        "norm_pix", "what is painted: pixels normalised patch by patch, or as they are (table 1d)"
    )
    decoder_dim: int = setting(512, "width of the decoder (table 1b); a multiple of 4 and of its heads", unit="features", ge=4)
    decoder_depth: int = setting(8, "blocks of the decoder (table 1a)", unit="blocks", ge=1)
    decoder_heads: int = setting(16, "attention heads of the decoder", ge=1)


VIEWS = {"view": View(crop=(0.2, 1.0), interpolation="antialiased_cubic")}

RECIPE = {
    "backbone.name": "vit_base",
    "backbone.positions": "sincos",
    "backbone.init": "mae",
    "optim.name": "adamw",
    "optim.lr": 1.5e-4,
    "optim.betas": (0.9, 0.95),
    "optim.weight_decay": 0.05,
    "optim.decay_norms": False,
    "optim.warmup_epochs": 40,
    "optim.schedule": "cosine",
    "train.batch_size": 4096,
    "train.epochs": 800,
    "train.channels_last": False,
}
SMALL = {
    "backbone.name": "vit_mini",
    "backbone.patch": 4,
    "method.decoder_dim": 64,
    "method.decoder_depth": 2,
    "method.decoder_heads": 4,
}

PRESETS = {
    "paper": Preset("ViT-B/16, batch 4096, 800 epochs (1600: 68.0 % linear, 83.6 % fine-tuned on ImageNet)"),
    "vit_l": Preset("ViT-L/16, 800 epochs: 73.9 % linear, 85.4 % fine-tuned on ImageNet", {"backbone.name": "vit_large"}),
    "small": Preset("ViT-S/16 for sets of 100,000 images", {"backbone.name": "vit_small", "method.decoder_dim": 256, "method.decoder_depth": 4,
                                                           "method.decoder_heads": 8, "train.batch_size": 1024, "train.epochs": 400}),
    "cifar": Preset(
        "a ViT of 6 M parameters for 32 px, patches of 4 px",
        SMALL | {"backbone.width": 192, "method.decoder_dim": 128, "optim.lr": 5e-4, "optim.warmup_epochs": 10, "train.batch_size": 512},
        {"view": View(size=32, crop=(0.2, 1.0))},
    ),
    "digits": Preset(
        "the built-in digits on a small ViT, patches of 4 px, batch 64, 500 steps; judge it by the linear probe",
        SMALL | {"backbone.width": 64, "method.mask_ratio": 0.5, "method.target": "pixels", "method.decoder_depth": 1, "optim.lr": 6e-3,
                 "optim.warmup_epochs": 1, "train.batch_size": 64, "train.steps": 500, "eval.every_epochs": 4},
        {"view": View(size=32, crop=(0.6, 1.0), flip=0.0)},
    ),
}  # fmt: skip


class MAE(Method):
    couples: ClassVar[bool] = False
    positions: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        net: Any = self.backbone  # a ViT: its patches and tokens are in reach
        self.patch: int = net.patch_size
        side, width = net.image_size // self.patch, config.decoder_dim
        self.embed = nn.Linear(self.out_dim, width)
        self.mask_token = nn.Parameter(torch.randn(1, width) * 0.02)  # (1, E): it decays
        self.register_buffer(
            "positions", torch.cat([torch.zeros(1, width), sincos_2d(width, side, side)]), persistent=False
        )  # (1+L, E)
        self.decoder = transformer(width, config.decoder_heads, config.decoder_depth, 1e-6)
        self.paint = nn.Linear(width, input_channels(net) * self.patch**2)
        for part in (self.embed, self.decoder, self.paint):
            xavier(part)

    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        if config.decoder_dim % 4 or config.decoder_dim % config.decoder_heads:
            raise ValueError(
                f"decoder_dim: got {config.decoder_dim}, must be a multiple of 4 and of decoder_heads ({config.decoder_heads})"
            )

    @classmethod
    def needs_vit(cls, config: Config) -> bool:
        return True

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        net: Any = self.backbone
        patches = net.patches(batch.views["view"])  # (B, L, D)
        order = self.order(batch, patches.shape[1])
        visible = order[:, : self.seen(patches.shape[1])]  # (B, L')
        whole, seen = apart(net, net.tokens(pick(patches, visible)))  # (B, D), (B, L', D)
        return {"tokens": torch.cat([whole[:, None], seen], 1), "order": order}  # (B, 1+L', D)

    def seen(self, patches: int) -> int:
        """How many of the patches of an image the encoder sees."""
        return max(1, round(patches * (1 - self.config.mask_ratio)))

    def order(self, batch: Batch, patches: int) -> Tensor:
        """(B, L) the patches of each row, the visible ones first."""
        return batch.rand("mask", (patches,)).argsort(1)

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        painted, masked = self.decode(reps["tokens"], reps["order"])  # (B, L, P), (B, L)
        patches = patchify(batch.views["view"], self.patch)  # (B, L, P)
        return {"loss": masked_error(painted, patches, masked, self.config.target, batch.size)}

    def decode(self, tokens: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, 1+L', D) of the first patches of `order` (B, L) -> painted patches (B, L, P) and 1 where one was masked (B, L)."""
        y = self.embed(tokens)  # (B, 1+L', E)
        hidden = order.shape[1] - y.shape[1] + 1
        filler = self.mask_token.to(y.dtype).expand(len(y), hidden, -1)
        rank = order.argsort(1)  # (B, L), where each patch stands in `order`
        y = torch.cat([y[:, :1], pick(torch.cat([y[:, 1:], filler], 1), rank)], 1) + self.positions  # (B, 1+L, E)
        masked = (rank >= order.shape[1] - hidden).to(tokens.dtype)
        return self.paint(self.decoder(y))[:, 1:], masked

    @torch.no_grad()
    def reconstruct(self, batch: Batch, clock: Clock) -> Reconstruction:
        images, reps = batch.views["view"], self.represent(batch, clock)
        painted, masked = self.decode(reps["tokens"], reps["order"])  # (B, L, P), (B, L)
        if self.config.target == "pixels":
            return Reconstruction(images, painted, masked.bool(), "painted pixels")
        mean, deviation = statistics(patchify(images, self.patch))
        painted = painted * deviation + mean
        return Reconstruction(
            images, painted, masked.bool(), "painted pixels, norm_pix undone by each patch's true mean and deviation"
        )


@precise
def masked_error(painted: Tensor, patches: Tensor, masked: Tensor, target: str, size: int) -> Tensor:
    """Mean squared error of masked patches (§3): painted, patches (B, L, P), masked (B, L); this rank's share.

    norm_pix: each patch by its own mean and (unbiased) variance. Every row has the same number of masked patches.
    """
    goal, wide = full(patches), full(painted)
    if target == "norm_pix":
        mean, deviation = statistics(goal)
        goal = (goal - mean) / deviation
    error = (wide - goal).square().mean(-1)  # (B, L)
    return (error * masked).sum() / (masked.sum() / len(masked) * size)


def statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation (B, L, 1) of each patch (B, L, P)."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()
