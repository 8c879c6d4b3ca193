"""What several methods that mask patches share: which are hidden, and what the network sees of the rest.

Legend: B rows, L patches of a square grid, D features of a token, T rectangles.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def block_order(draws: Tensor, side: int, area: tuple[float, float] = (0.08, 0.4)) -> Tensor:
    """An order of L = side^2 patches in which rectangles come first: uniform draws (B, T, 4) of T rectangles -> (B, L).

    BEiT's masking (Bao et al. 2021, arXiv 2106.08254, algorithm 1), of which a method takes as many from the front as it hides. area: of a
    rectangle, as a share of the image; aspect ratios are 0.3 to 1 / 0.3. A patch stands where the first rectangle that holds it stands.
    """
    least, most = area
    patches = (least + (most - least) * draws[..., 0]) * side**2  # (B, T)
    aspect = 0.3 ** (2 * draws[..., 1] - 1)
    height, width = (patches * aspect).sqrt().round().clamp(1, side), (patches / aspect).sqrt().round().clamp(1, side)
    top, left = (draws[..., 2] * (side - height + 1)).floor(), (draws[..., 3] * (side - width + 1)).floor()
    first = torch.stack([top, left], -1)
    held = inside(first, torch.stack([height, width], -1), side)  # (B, T, L)
    found = torch.where(held.any(1), held.to(torch.int8).argmax(1), held.shape[1])  # (B, L)
    return found.argsort(dim=1, stable=True)


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
    """A transformer's patches of images (B, C, H, W), a mask token (D,) in place of the `hidden` ones (B, L), with their positions: (B, L, D)."""
    seen = net.project(images)  # (B, L, D)
    seen = torch.where(hidden[..., None], mask_token.to(seen.dtype), seen)
    return seen + net.positions(images.shape[-2] // net.patch_size, images.shape[-1] // net.patch_size)
