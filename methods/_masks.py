"""What several methods that mask patches share: which are hidden, and what the network sees of the rest.

Legend: B rows, L patches of a square grid, D features of a token, T rectangles.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def blocks(draws: Tensor, side: int, least: float, count: Tensor | int) -> Tensor:
    """An order of L = side^2 patches of which the first `count` (an int, or one for each row: (B,)) lie in blocks: uniform draws (B, T, 4) -> (B, L).

    BEiT's masking (Bao et al. 2021, arXiv 2106.08254, algorithm 1) as its release does it and CAE, data2vec, iBOT and DINOv2 took it over: of T
    rectangles, of at least a share of the image and at most what is left to hide, one that reaches across the image or hides more than what is
    left stands behind those that do not. Aspect ratios are 0.3 to 1 / 0.3.
    """
    total = draws.shape[1]
    place = torch.full((len(draws), side**2), 2 * total, device=draws.device)  # (B, L)
    left = torch.zeros(len(draws), dtype=torch.long, device=draws.device) + count  # (B,)
    for at in range(total):
        draw, smallest = draws[:, at], least * side**2
        held, sides = rectangles(smallest + (left - smallest) * draw[:, 0], draw, side)  # (B, L), (B, 2)
        new = (held & (place >= total)).sum(1)  # (B,)
        fits = (new <= left) & (sides < side).all(1)
        place = torch.where(held, place.minimum(torch.where(fits, at, total + at)[:, None]), place)
        left = left - new * fits
    return place.argsort(dim=1, stable=True)


def rectangles(patches: Tensor, draws: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Areas (...), in patches, and draws (..., 4), of which the first is not used: what rectangles hold (..., L) bool, their sides (..., 2)."""
    aspect = 0.3 ** (2 * draws[..., 1] - 1)
    height, width = (patches * aspect).sqrt().round().clamp(1, side), (patches / aspect).sqrt().round().clamp(1, side)
    top, left = (draws[..., 2] * (side - height + 1)).floor(), (draws[..., 3] * (side - width + 1)).floor()
    sides = torch.stack([height, width], -1)
    return inside(torch.stack([top, left], -1), sides, side), sides


def inside(first: Tensor, sides: Tensor, side: int) -> Tensor:
    """Which of L = side^2 patches rectangles hold: (..., 2) row and column of their first patch, and height and width -> (..., L) bool."""
    line = torch.arange(side, device=first.device)
    held = (line >= first[..., None]) & (line < (first + sides)[..., None])  # (..., 2, side)
    return (held[..., 0, :, None] & held[..., 1, None, :]).flatten(-2)


def front(order: Tensor, count: Tensor | int) -> Tensor:
    """The first `count` (an int, or one for each row: (B,)) of an order of patches (B, L), as (B, L) bool."""
    count = count[:, None] if isinstance(count, Tensor) else count
    return order.argsort(1) < count


def hide(net: Any, images: Tensor, hidden: Tensor, mask_token: Tensor) -> Tensor:
    """A transformer's patches of images (B, C, H, W), a mask token (1, D) in place of the `hidden` ones (B, L), with their positions: (B, L, D)."""
    seen = net.project(images)  # (B, L, D)
    seen = torch.where(hidden[..., None], mask_token.to(seen.dtype), seen)
    return seen + net.positions(images.shape[-2] // net.patch_size, images.shape[-1] // net.patch_size)


def rising(config: Any, *names: str) -> None:
    """Raises ValueError for a range of the config whose ends stand the wrong way round."""
    for name in names:
        least, most = getattr(config, name)
        if least > most:
            raise ValueError(f"{name}: got {least} {most}, must be the least and then the largest: {most} {least}")
