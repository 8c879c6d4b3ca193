"""torchvision's vision transformer with its tokens in reach: any image size, any subset of patches, stochastic depth per row."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from ..config.sections import BackboneConfig
from ..errors import ConfigError
from ..methods._norms import DropPath
from ..methods._parts import narrow, sincos_2d
from ..methods._ranks import full

SHAPES = {  # blocks, heads, features of a token (0: backbone.width)
    "vit_mini": (4, 4, 0),
    "vit_small": (12, 12, 384),  # 12 heads: Chen et al. 2021, table 4; DINO's and DeiT's has 6
    "vit_base": (12, 12, 768),
    "vit_large": (24, 16, 1024),
}


class _Branch(nn.Module):
    """The end of a residual branch: layer scale, then stochastic depth."""

    def __init__(self, width: int, scale: float, drop: DropPath) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), scale)) if scale else None
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x if self.scale is None else x * self.scale)


class VisionTransformer(TorchvisionViT):
    """(B, 3, H, W) -> (B, D): the class token after the last norm.

    `forward(x)` is `tokens(patches(x))[:, 0]`; methods that mask or predict patches call the two themselves. Weights are named as
    torchvision's (layer scale and registers, where used, are besides).

    B rows, L patches of the image, D features of a token, P = 1 + R tokens before them: the class token, then R registers
    (Darcet et al. 2024, arXiv 2309.16588), which have no position
    """

    def __init__(self, config: BackboneConfig, side: int) -> None:
        depth, heads, width = SHAPES[config.name]
        width, heads = width or config.width, config.heads or heads
        if width % heads:
            raise ConfigError("backbone.heads", f"got {heads}, must divide the width of {width}")
        super().__init__(
            image_size=side - side % config.patch,
            patch_size=config.patch,
            num_layers=depth,
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=4 * width,
            num_classes=1,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        self.heads = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        self.out_dim, self.map_dim, self.depth, self.num_prefix_tokens = width, width, depth, 1 + config.registers
        _initialise(self, config.init)
        self.registers = nn.Parameter(torch.randn(1, config.registers, width) * 1e-6) if config.registers else None
        for i, block in enumerate(self.encoder.layers):
            assert isinstance(block, EncoderBlock)
            rate = config.drop_path * i / max(depth - 1, 1)
            block.dropout = _Branch(width, config.layer_scale, DropPath(rate, f"block{i}.attention"))  # pyright: ignore[reportAttributeAccessIssue]
            block.mlp[-1] = _Branch(width, config.layer_scale, DropPath(rate, f"block{i}.mlp"))
        if config.positions == "sincos":
            grid = self.image_size // self.patch_size
            fixed = torch.cat([torch.zeros(1, width), sincos_2d(width, grid, grid)])
            self.encoder.pos_embedding = nn.Parameter(fixed[None], requires_grad=False)
        if config.frozen_patches:
            self.conv_proj.requires_grad_(False)

    def project(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, L, D): projected patches without positions, row by row."""
        rows, columns = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        return self.conv_proj(x[..., : rows * self.patch_size, : columns * self.patch_size]).flatten(2).transpose(1, 2)

    def patches(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, L, D): projected patches with their positions."""
        return self.project(x) + self.positions(x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size)

    def positions(self, rows: int, columns: int) -> Tensor:
        """(1, L, D) position embedding of a grid, interpolated where it is not the grid that was learned."""
        learned = self.encoder.pos_embedding[:, 1:]
        side = math.isqrt(learned.shape[1])
        if (rows, columns) == (side, side):
            return learned
        grid = learned.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        wide = (_Bicubic.apply if grid.is_cuda else _bicubic)(full(grid), (rows, columns)).to(learned.dtype)
        return wide.flatten(2).transpose(1, 2)

    def tokens(self, patches: Tensor) -> Tensor:
        """(B, L', D) patches, in any number -> (B, P + L', D): class token first, then registers, after the last norm."""
        return self.encoder.ln(self.encoder.layers(self._with_prefix(patches)))

    def inner(self, patches: Tensor, count: int) -> list[Tensor]:
        """What each of the last `count` blocks puts out, before the last norm: (B, P + L', D) each, the last block's last."""
        x, found = self._with_prefix(patches), []
        for block in self.encoder.layers:
            x = block(x)
            found.append(x)
        return found[-count:]

    def _with_prefix(self, patches: Tensor) -> Tensor:
        first = self.class_token + self.encoder.pos_embedding[:, :1]
        before = first if self.registers is None else torch.cat([first, self.registers], 1)  # (1, P, D)
        return torch.cat([before.expand(len(patches), -1, -1).to(patches.dtype), patches], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(self.patches(x))[:, 0]

    def feature_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (B, D) features and the patches' (B, D, h, w)."""
        tokens, rows = self.tokens(self.patches(x)), x.shape[-2] // self.patch_size
        cells = tokens[:, -rows * (x.shape[-1] // self.patch_size) :]  # (B, L, D)
        return tokens[:, 0], cells.transpose(1, 2).unflatten(2, (rows, -1))


def _bicubic(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, D, h, w) -> (B, D, *size)"""
    return F.interpolate(grid, size=size, mode="bicubic", align_corners=False)


class _Bicubic(torch.autograd.Function):
    """As `_bicubic`, with a gradient that is bit-equal twice: torch's own on a GPU adds in no fixed order."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.shape, ctx.size = grid.shape, size
        return _bicubic(grid, size)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        height, width = ctx.shape[2:]
        cells = torch.eye(height * width, dtype=grads[0].dtype, device=grads[0].device).reshape(-1, 1, height, width)
        weights = _bicubic(cells, ctx.size).flatten(1)  # (h * w, H * W) of each cell in what is made of it
        return (grads[0].flatten(2) @ weights.T).reshape(ctx.shape), None


def _initialise(net: VisionTransformer, kind: str) -> None:
    """moco_v3 (Chen et al. 2021, `vits.py`): Xavier, each of q, k and v by itself, the patch projection as a linear layer. mae (He et al. 2022,
    `models_mae.py`): the same with q, k and v as one layer. trunc_normal (Caron et al. 2021, `vision_transformer.py`): a normal of 0.02, the
    patch projection as torch draws a convolution. Biases are zero, tokens and positions normal of 0.02. beit: see `_as_beit`.
    """
    if kind == "beit":
        _as_beit(net)
        return
    truncated = kind == "trunc_normal"
    for module in net.modules():
        if isinstance(module, nn.MultiheadAttention):
            assert module.in_proj_weight is not None
            outputs, inputs = module.in_proj_weight.shape
            if truncated:
                nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
            else:
                bound = math.sqrt(6 / (inputs + (outputs // 3 if kind == "moco_v3" else outputs)))
                nn.init.uniform_(module.in_proj_weight, -bound, bound)
            nn.init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.Linear):
            if truncated:
                nn.init.trunc_normal_(module.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    if truncated:
        net.conv_proj.reset_parameters()  # pyright: ignore[reportCallIssue]
    else:
        bound = math.sqrt(6 / (3 * net.patch_size**2 + net.hidden_dim))
        nn.init.uniform_(net.conv_proj.weight, -bound, bound)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(net.conv_proj.bias)  # pyright: ignore[reportArgumentType]
    nn.init.normal_(net.class_token, std=0.02)
    nn.init.normal_(net.encoder.pos_embedding, std=0.02)


def _as_beit(net: VisionTransformer) -> None:
    """BEiT's (Bao et al. 2021, §2.5), as data2vec and SimMIM took it over: everything `narrow`, biases zero, and the last layer of each branch of block l
    divided by sqrt(2 l).
    """
    for module in net.modules():
        if isinstance(module, nn.MultiheadAttention):
            narrow(module.in_proj_weight)
            nn.init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            narrow(module.weight)
            nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
    narrow(net.class_token)
    narrow(net.encoder.pos_embedding)
    with torch.no_grad():
        for depth, block in enumerate(net.encoder.layers, 1):
            branches: Any = block
            for last in (branches.self_attention.out_proj, branches.mlp[3]):
                last.weight /= (2 * depth) ** 0.5
