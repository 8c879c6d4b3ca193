"""Segmentation on a frozen encoder: a linear layer on its tokens, or the nearest tokens of training images.

B images, D features of a token (of a ResNet's last map: of a cell), h x w their grid, C classes with the background, N tokens that are kept
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.draws import generator
from .bodies import Last
from .samples import Sample, stacked
from .segmenter import STRIDE

BANK = 65_536  # tokens that are kept, of all training images alike
TEMPERATURE = 0.02  # of the votes (Balazevic et al. 2023, https://arxiv.org/abs/2306.01667, appendix)
SIMILARITIES = 2**24  # that are held at once


class Frozen(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> tokens (B, D, h, w) of a network that does not train: no gradient, no batch statistics."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.body = Last(net, STRIDE)
        self.body.requires_grad_(False)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.body.eval()
        return self

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        return self.body((images - self.mean) / self.std)


class Linear(Frozen):
    """A linear layer on normalised tokens: images -> scores (B, C, H, W). After DINOv2's (Oquab et al. 2023, §7.4; mmsegmentation's BNHead), under SGD."""

    def __init__(self, net: Any, classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(net, mean, std)
        self.norm = nn.BatchNorm2d(self.body.channels)
        self.head = nn.Conv2d(self.body.channels, classes, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, images: Tensor) -> Tensor:
        scores = self.head(self.norm(self.tokens(images)))  # (B, C, h, w)
        return F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=False)


class Neighbours(Frozen):
    """The k nearest kept tokens vote with what they showed: images -> shares (B, C, H, W) of the vote. Nothing trains; `fill` it first."""

    def __init__(self, net: Any, classes: int, mean: tuple[float, ...], std: tuple[float, ...], k: int) -> None:
        super().__init__(net, mean, std)
        self.classes, self.k = classes, k

    @torch.no_grad()
    def fill(self, batches: Iterable[list[Sample]], images: int, seed: int) -> None:
        """Keep tokens of so many training images, drawn as a function of seed and image, and of each the classes of its pixels."""
        each, keys, shown = -(-BANK // images), list[Tensor](), list[Tensor]()
        for batch in batches:
            pixels, classes = stacked(batch)  # (B, 3, H, W), (B, H, W)
            tokens = self.tokens(pixels.to(self.mean.device).float() / 255)  # (B, D, h, w)
            votes = shares(classes.to(tokens.device), self.classes, tokens.shape[-2:])  # (B, C, h, w)
            for sample, token, vote in zip(batch, tokens.flatten(2), votes.flatten(2), strict=True):
                known = torch.nonzero(vote.sum(0) > 0)[:, 0].cpu()  # padding and crowds show nothing
                some = generator(seed, "dense tokens", sample.index).permutation(len(known))[:each]
                own = known[torch.as_tensor(some)].to(token.device)
                keys.append(F.normalize(token[:, own].T.float(), dim=1))  # (each, D)
                shown.append(vote[:, own].T)  # (each, C)
        self.bank, self.shown = torch.cat(keys), torch.cat(shown)  # (N, D), (N, C)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.tokens(images)  # (B, D, h, w)
        asked = F.normalize(tokens.flatten(2).transpose(1, 2).flatten(0, 1).float(), dim=1)  # (B*h*w, D)
        votes = [self._votes(rows) for rows in asked.split(max(1, SIMILARITIES // len(self.bank)))]
        found = torch.cat(votes).unflatten(0, (len(images), *tokens.shape[-2:])).permute(0, 3, 1, 2)  # (B, C, h, w)
        return F.interpolate(found, size=images.shape[-2:], mode="bilinear", align_corners=False)

    def _votes(self, rows: Tensor) -> Tensor:
        """(R, D) -> (R, C)"""
        near, places = (rows @ self.bank.T).topk(min(self.k, len(self.bank)), dim=1)  # (R, k)
        return ((near / TEMPERATURE).softmax(1)[..., None] * self.shown[places]).sum(1)


def shares(classes: Tensor, count: int, grid: tuple[int, ...] | torch.Size) -> Tensor:
    """Classes (B, H, W) -> (B, C, h, w): the share of each class of a cell's pixels; 0 of all where IGNORE fills it."""
    # coco.IGNORE is beyond all
    hot = F.one_hot(classes.long().clamp(max=count), count + 1)[..., :count].permute(0, 3, 1, 2).float()
    cells = F.adaptive_avg_pool2d(hot, (grid[0], grid[1]))
    return cells / cells.sum(1, keepdim=True).clamp_min(1e-12)
