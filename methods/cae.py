"""CAE: Context Autoencoder for Self-Supervised Representation Learning.

Chen et al., IJCV 2023, https://arxiv.org/abs/2202.03026 (code: Atten4Vis/CAE).
The encoder sees visible patches only; a regressor predicts what it would have made of the masked ones, and from that prediction alone
a decoder names their tokens. So the encoder represents, and the pretext task is left to the others.

B batch rows, L patches, L' visible and M masked ones, D features of a token, K tokens of the vocabulary
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reconstruction, Reps, View, setting
from ._masks import blocks
from ._parts import apart, input_channels, pick, precise, transformer, xavier
from ._ranks import full
from ._tokenizers import DalleTokenizer, PatchTokenizer, read_dalle

PAPER = Paper(
    title="Context Autoencoder for Self-Supervised Representation Learning",
    year=2022,
    url="https://arxiv.org/abs/2202.03026",
    contrasts="nothing: masked patches' features and tokens are predicted from visible ones",
    crops="1",
)
METRICS = {
    "loss": "naming the masked patches' tokens (log of method.vocabulary at chance) + method.alignment x alignment",
    "token_top1": "share of masked patches whose token is named right",
    "alignment": "squared distance of the predicted features of masked patches from the encoder's own of them",
}
DIFFERS = (
    "tokens are clusters of patches fitted to the first batch, unless method.tokenizer is dalle",
    "regressor and decoder have neither layer scale nor drop path, the regressor other norms than the release's; pixels are resized by area, not by Lanczos",
    "features are the mean patch token; the published linear number is the class token's, which its attentive probe asks too",
    "the patch projection begins as MAE's, the release's at 0.02",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    mask_ratio: float = setting(0.5, "share of patches that are masked, in blocks (98 of 196)", unit="fraction", gt=0, lt=1)
    tokenizer: Literal["patches", "dalle"] = setting(
        "patches",
        "what names the patches: clusters of the first batch's, or DALL-E's encoder (§3.2), which sees the view `pixels`",
    )
    tokenizer_file: str = setting(
        "", "dalle: local file of the encoder's state dict, on every node (made as methods/_tokenizers.py says)"
    )
    vocabulary: int = setting(8192, "K, tokens of the frozen tokenizer; DALL-E's: 8192", unit="tokens", ge=2)
    regressor_blocks: int = setting(4, "cross-attention blocks of the latent regressor (§3.1)", unit="blocks", ge=1)
    decoder_blocks: int = setting(4, "self-attention blocks of the decoder (§3.1)", unit="blocks", ge=1)
    heads: int = setting(12, "attention heads of regressor and decoder; the backbone's width is a multiple", ge=1)
    alignment: float = setting(2.0, "weight of the alignment with the encoder's features of masked patches (eq. 3)", ge=0)


VIEWS = {"view": View(crop=(0.08, 1.0), interpolation="antialiased_cubic")}
# the same crop at half the size, 8 px for each patch of 16
DALLE_VIEWS = {
    "view": replace(VIEWS["view"], geometry="image"),
    "pixels": replace(VIEWS["view"], geometry="image", size=112, interpolation="area"),
}

RECIPE = {
    "backbone.name": "vit_base",
    "backbone.positions": "sincos",
    "backbone.init": "mae",
    "backbone.drop_path": 0.1,
    "backbone.layer_scale": 0.1,
    "optim.name": "adamw",
    "optim.lr": 1.5e-3,
    "optim.lr_scaling": "none",
    "optim.lr_end": 0.0067,
    "optim.weight_decay": 0.05,
    "optim.decay_norms": False,
    "optim.warmup_epochs": 20,
    "optim.schedule": "cosine",
    "optim.clip": 3.0,
    "train.batch_size": 2048,
    "train.epochs": 800,
    "train.channels_last": False,
}
MINI = {
    "backbone.name": "vit_mini", "backbone.patch": 4, "backbone.drop_path": 0.0, "method.vocabulary": 256, "method.regressor_blocks": 2,
    "method.decoder_blocks": 1, "method.heads": 4,
}  # fmt: skip

PRESETS = {
    "paper": Preset("ViT-B/16, batch 2048, 800 epochs, with clusters of patches as tokens"),
    "dalle": Preset("paper with DALL-E's tokens, from method.tokenizer_file: 68.9 % linear, 83.8 % fine-tuned on ImageNet",
                    {"method.tokenizer": "dalle"}, DALLE_VIEWS),
    "small": Preset("ViT-S/16, 300 epochs", {"backbone.name": "vit_small", "train.epochs": 300}),
    "cifar": Preset("a ViT of 6 M parameters for 32 px, patches of 4 px",
                    MINI | {"backbone.width": 192, "train.batch_size": 512, "train.epochs": 300}, {"view": View(size=32, crop=(0.2, 1.0))}),
    "digits": Preset("the built-in digits on a small ViT, patches of 4 px, batch 64, 500 steps; judge it by the linear probe",
                     MINI | {"backbone.width": 64, "optim.lr": 2e-3, "optim.warmup_epochs": 1, "train.batch_size": 64, "train.steps": 500,
                             "eval.every_epochs": 4}, {"view": View(size=32, crop=(0.6, 1.0), flip=0.0)}),
}  # fmt: skip


class CrossAttention(nn.Module):
    """A regressor's block: masked tokens ask the visible ones and each other (§3.1). Positions join queries and keys of every block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.seen_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, seen: Tensor, place: Tensor, seen_place: Tensor) -> Tensor:
        """Masked tokens x (B, M, D) and visible ones (B, L', D), each with its positions -> (B, M, D)"""
        both = self.seen_norm(torch.cat([seen, x], 1))  # (B, L'+M, D)
        keys = both + torch.cat([seen_place, place], 1)
        x = x + self.attention(self.norm(x) + place, keys, both, need_weights=False)[0]
        return x + self.mlp(self.mlp_norm(x))


class CAE(Method):  # it couples rows, in its first step: the tokenizer is fitted to the global batch
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        net: Any = self.backbone  # a ViT: its patches and tokens are in reach
        width = self.out_dim
        self.tokenizer = (
            DalleTokenizer(config.tokenizer_file)
            if config.tokenizer == "dalle"
            else PatchTokenizer(config.vocabulary, net.patch_size, input_channels(net))
        )
        self.mask_token = nn.Parameter(torch.randn(1, width) * 0.02)  # (1, D): it decays
        self.regressor = nn.ModuleList(CrossAttention(width, config.heads) for _ in range(config.regressor_blocks))
        self.regressor_norm = nn.LayerNorm(width)
        self.decoder = transformer(width, config.heads, config.decoder_blocks)
        self.name = nn.Linear(width, config.vocabulary)
        for part in (self.regressor, self.decoder, self.name):
            xavier(part)

    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        if config.tokenizer == "patches":
            return
        view, pixels = views.get("view"), views.get("pixels")
        if view is None or pixels is None or not view.geometry or view.geometry != pixels.geometry:
            raise ValueError(
                "tokenizer: got dalle, which needs the views `view` and `pixels` in one geometry group (as in the preset dalle)"
            )
        if pixels.channels not in (1, 3):  # 1: whoever asks does not say
            raise ValueError(f"tokenizer: got dalle, which names RGB images, not {pixels.channels} channels; give patches")
        if pixels.size % 8 or pixels.size > view.size or view.size % (pixels.size // 8):
            raise ValueError(
                "tokenizer: got dalle, whose view `pixels` needs 8 px for each patch of `view`, which is not the smaller one; "
                f"got {pixels.size} px for the patches of {view.size} px"
            )
        known = read_dalle(config.tokenizer_file).blocks.get_submodule("output.conv").out_channels
        if config.vocabulary != known:
            raise ValueError(f"vocabulary: got {config.vocabulary}, must be the {known} tokens of tokenizer_file")

    @classmethod
    def needs_vit(cls, config: Config) -> bool:
        return True

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        net: Any = self.backbone
        patches = net.patches(batch.views["view"])  # (B, L, D)
        side = round(patches.shape[1] ** 0.5)
        count = min(max(1, round(patches.shape[1] * self.config.mask_ratio)), patches.shape[1] - 1)
        order = blocks(batch.rand("blocks", (32, 4)), side, 16 / 196, count)  # (B, L), masked ones first
        masked, visible = order[:, :count], order[:, count:]
        _, seen = apart(net, net.tokens(pick(patches, visible)))  # (B, L', D)
        with torch.no_grad():
            _, goal = apart(net, net.tokens(pick(patches, masked)))  # (B, M, D): what must be predicted, as the encoder sees it
        return {"seen": seen, "goal": goal, "masked": masked, "visible": visible}

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        own = self.tokens_of(reps, batch, clock).gather(1, reps["masked"])  # (B, M)
        predicted = self.regress(reps["seen"], reps["masked"], reps["visible"])  # (B, M, D)
        logits = self.logits(predicted, reps["masked"])  # (B, M, K)
        named, accuracy = cross_entropy(logits, own, batch.size)
        aligned = squared_error(predicted, reps["goal"], batch.size)
        return {"loss": named + self.config.alignment * aligned, "token_top1": accuracy, "alignment": aligned.detach()}

    def tokens_of(self, reps: Reps, batch: Batch, clock: Clock) -> Tensor:
        """(B, L) token ids; what the first step finds out about the tokens is left in `reps`."""
        images, codes = batch.views[self.tokenizer.view], self.tokenizer.codes
        if self.config.tokenizer == "dalle":
            images = self.pixels(images)
        if clock.samples == 0 or not codes.any():
            codes = reps["codes"] = self.tokenizer.fit(images, batch.size)
        tokens = self.tokenizer(images, codes)  # (B, L)
        patches = reps["masked"].shape[1] + reps["visible"].shape[1]
        if tokens.shape[1] != patches:
            raise ValueError(f"views.pixels.size: its {images.shape[-1]} px give {tokens.shape[1]} tokens for {patches} patches")
        return tokens

    def regress(self, seen: Tensor, masked: Tensor, visible: Tensor) -> Tensor:
        """Features of visible patches (B, L', D) -> predicted features (B, M, D) of the masked ones."""
        place, seen_place = self.places(masked), self.places(visible)
        x = self.mask_token.to(seen.dtype).expand(*masked.shape, -1)  # (B, M, D)
        for block in self.regressor:
            x = block(x, seen, place, seen_place)
        return self.regressor_norm(x)

    def logits(self, predicted: Tensor, masked: Tensor) -> Tensor:
        """Predicted features (B, M, D) of the masked patches -> scores (B, M, K) of their tokens."""
        return self.name(self.decoder(predicted + self.places(masked)))

    def places(self, which: Tensor) -> Tensor:
        """Position embeddings (B, M, D) of patches `which` (B, M)."""
        net: Any = self.backbone
        side = net.image_size // net.patch_size
        return net.positions(side, side)[0][which]

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        if "codes" in reps:
            self.tokenizer.codes.copy_(reps["codes"])

    @torch.no_grad()
    def reconstruct(self, batch: Batch, clock: Clock) -> Reconstruction:
        images, reps = batch.views["view"], self.represent(batch, clock)
        rank = torch.cat([reps["masked"], reps["visible"]], 1).argsort(1)  # (B, L), of each patch: the masked ones first
        predicted = self.regress(reps["seen"], reps["masked"], reps["visible"])  # (B, M, D)
        tokens = self.logits(predicted, reps["masked"]).argmax(-1)  # (B, M)
        painted = self.tokenizer.decode(F.pad(tokens, (0, reps["visible"].shape[1])))  # (B, L, P), the masked ones first
        masked = rank < tokens.shape[1]  # (B, L)
        return Reconstruction(images, pick(painted, rank), masked, "clusters of patches, as the predicted tokens name them")

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.taps(inputs)["tokens"].mean(1)  # (B, D)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        net: Any = self.backbone
        whole, patches = apart(net, net.tokens(net.patches(inputs["image"])))  # (B, D), (B, L, D)
        return {"backbone": whole, "tokens": patches}


@precise
def cross_entropy(logits: Tensor, own: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Of masked patches' logits (B, M, K) with their tokens (B, M): the mean over patches and the global batch; shares of loss and accuracy."""
    wide, total = full(logits), size * own.shape[1]
    hits = (wide.detach().argmax(-1) == own).sum().to(wide.dtype)
    return F.cross_entropy(wide.flatten(0, 1), own.flatten(), reduction="sum") / total, hits / total


@precise
def squared_error(predicted: Tensor, goal: Tensor, size: int) -> Tensor:
    """Mean squared difference of (B, M, D) features over patches, features and the global batch; this rank's share."""
    return (full(predicted) - full(goal).detach()).square().mean((1, 2)).sum() / size
