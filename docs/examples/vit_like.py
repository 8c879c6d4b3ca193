"""A small vision transformer without a class token, as a backbone of one's own: contray train simclr --backbone.name docs/examples/vit_like.py

Its keys are backbone.vit_like.depth and so on. `patches`, `tokens`, `positions`, `project` and `inner` are for methods that mask patches; what
else a backbone may offer says contray/model/backbones.py.
"""

from dataclasses import dataclass

import torch
from torch import nn

from contray.methods import setting

ABOUT = "a vision transformer whose features are the mean of its patches"


@dataclass(frozen=True)
class Config:
    depth: int = setting(4, "blocks", ge=1)
    width: int = setting(64, "features of a token", ge=8)
    heads: int = setting(4, "heads of the attention", ge=1)
    patch: int = setting(4, "side of a patch", unit="px", ge=1)
    dropout: float = setting(0.0, "dropout of each block", unit="probability", ge=0, lt=1)


class VitLike(nn.Module):
    """(B, C, H, W) -> (B, D), of the side that it was built for."""

    num_prefix_tokens = 0

    def __init__(self, config: Config, channels: int, side: int) -> None:
        super().__init__()
        self.out_dim, self.patch_size, self.image_size = config.width, config.patch, side
        self.embed = nn.Conv2d(channels, config.width, config.patch, config.patch)
        self.places = nn.Parameter(torch.randn(1, config.width, side // config.patch, side // config.patch) * 0.02)
        layer = lambda: nn.TransformerEncoderLayer(  # noqa: E731
            config.width, config.heads, 4 * config.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.Sequential(*[nn.Sequential(layer(), nn.Dropout(config.dropout)) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.width)

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        wide = nn.functional.interpolate(self.places, (rows, columns), mode="bicubic", align_corners=False)
        return wide.flatten(2).transpose(1, 2)  # (1, L, D)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed(x).flatten(2).transpose(1, 2)  # (B, L, D)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(x) + self.positions(x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size)

    def tokens(self, patches: torch.Tensor) -> torch.Tensor:
        return self.norm(self.blocks(patches))  # (B, L, D)

    def inner(self, patches: torch.Tensor, count: int) -> list[torch.Tensor]:
        return [patches := block(patches) for block in self.blocks][-count:]  # (B, L, D) each

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tokens(self.patches(x)).mean(1)


def build(config: Config, channels: int, side: int) -> nn.Module:
    return VitLike(config, channels, side)
