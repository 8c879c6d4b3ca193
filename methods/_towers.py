"""What methods of images and their captions share (CLIP, SigLIP): a tower for each, projected into one space.

Legend: B batch rows, L tokens, F backbone features, W width of the text tower, D projected features
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, Reps, View
from ._parts import normalize

END = 257  # of bytes; in each vocabulary it is the largest token of a text, whose feature is read there (CLIP, §2.4)
BYTE_PAIRS = 49408

SMALL_TEXT = {"method.text_width": 64, "method.text_blocks": 2, "method.text_heads": 4, "method.dim": 64}
# the picture that the caption describes: both are of one scene
DIGITS_VIEWS = {
    "image": View(size=32, crop=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, geometry="scene"),
    "text": View(source="caption", kind="tokens", size=64, crop=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, geometry="scene"),
}


class TwoTowers(Method):
    """An image's features and a text's in one space, with a temperature that is learned."""

    def __init__(self, config: Any, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        shared = config.towers == "shared"
        width = self.out_dim if shared else config.text_width
        self.words = nn.Embedding(config.vocabulary, width)
        self.places = nn.Parameter(torch.randn(config.longest, width) * 0.01)  # (L, W)
        nn.init.normal_(self.words.weight, std=0.02)
        if not shared:
            self.text = text_tower(width, config.text_blocks, config.text_heads)
        self.image_head = nn.Linear(self.out_dim, config.dim, bias=False)
        self.text_head = nn.Linear(width, config.dim, bias=False)
        for head in (self.image_head, self.text_head):
            nn.init.normal_(head.weight, std=head.in_features**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))  # ln (1 / T)

    @classmethod
    def needs_vit(cls, config: Any) -> bool:
        return config.towers == "shared"

    @classmethod
    def check(cls, config: Any, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        if config.text_width % config.text_heads:
            raise ValueError(f"text_width: got {config.text_width}, must be a multiple of text_heads ({config.text_heads})")
        if views["text"].size > config.longest:
            raise ValueError(f"longest: got {config.longest}, must be at least views.text.size ({views['text'].size})")
        if views["text"].merges and config.vocabulary < BYTE_PAIRS:
            raise ValueError(f"vocabulary: got {config.vocabulary}, must be {BYTE_PAIRS} where views.text.merges is given")

    def negatives(self, batch: int) -> int:
        return batch - 1

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {"image": self.backbone(batch.views["image"]), "text": self.read(batch.views["text"])}  # (B, F), (B, W)

    def read(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, W): the feature at each text's end."""
        embedded = self.words(tokens) + self.places[: tokens.shape[1]]  # (B, L, W)
        length = tokens.shape[1]
        end = tokens.argmax(1)  # (B,)
        if self.config.towers == "shared":
            net: Any = self.backbone
            texts = torch.arange(length, device=tokens.device) <= end[:, None]  # (B, L)
            seen = embedded * texts[..., None].to(embedded.dtype)  # padding says nothing, and the class token sums up
            return net.tokens(seen)[:, 0]
        causal = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device, dtype=embedded.dtype)
        read = self.text(embedded, mask=causal, is_causal=True)  # (B, L, W)
        return read[torch.arange(len(read), device=read.device), end]

    def project(self, reps: Reps) -> tuple[Tensor, Tensor]:
        """Images and texts in the shared space, (B, D) each, L2-normalised."""
        return normalize(self.image_head(reps["image"])), normalize(self.text_head(reps["text"]))

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        h = self.backbone(inputs["image"])  # (B, F)
        return {"backbone": h, "projector": self.image_head(h)}


def text_tower(width: int, blocks: int, heads: int) -> nn.TransformerEncoder:
    """(B, L, W) -> (B, L, W), pre-norm. Initialised as the release: each block by itself, what adds to the residual stream scaled by (2 blocks)^-1/2."""
    options: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    layers = [nn.TransformerEncoderLayer(width, heads, 4 * width, **options) for _ in range(blocks)]
    tower = nn.TransformerEncoder(layers[0], blocks, norm=nn.LayerNorm(width), enable_nested_tensor=False)
    tower.layers = nn.ModuleList(layers)  # it would make them copies of one
    added = (2 * width * blocks) ** -0.5
    for layer in layers:
        nn.init.normal_(layer.self_attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(layer.self_attn.out_proj.weight, std=added)
        nn.init.normal_(layer.linear1.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(layer.linear2.weight, std=added)
    return tower
