"""The pixels of views in batches of torch tensors, on any device, from images and the tables of `recipe.Recipes`.

Values are whole numbers from 0 to 255 in float32, rounded where the CPU path (albumentations, OpenCV) rounds. No row depends on another: there
are element-wise operations, sums over a row's own pixels in a fixed order of its own, and nothing else.

B rows, S px of the view's side, K taps; P pixels of all images, one image after the other
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable

import torch
from torch import Tensor

from ..methods._base import View
from .recipe import BOX, FACTORS, FLIP, GRAY, ORDER, SOLARIZE, TAPS


def cropped(pixels: Tensor, lies: Tensor, table: Tensor, view: View, longest: int) -> Tensor:
    """(B, S, S, 3) uint8: the boxes as squares, flipped where the table (B, 15 + K) says so, as `views._crop` makes them.

    pixels: (P, 3) uint8; lies: (B, 3) int64, of each row's image its first pixel, its height and its width; longest: no side is longer.
    """
    first, _, across = lies.unbind(1)
    top, left, height, width = table[:, BOX].double().unbind(1)
    shrinks = (height >= view.size) & (width >= view.size)
    rows, row_weights = _taps(top, height, view, shrinks, longest)
    columns, column_weights = _taps(left, width, view, shrinks, longest)
    flipped = table[:, FLIP, None, None] > 0
    columns = torch.where(flipped, columns.flip(1), columns)
    column_weights = torch.where(flipped, column_weights.flip(1), column_weights)

    def line(k: int) -> Tensor:  # (B, S, S, 3) of a tap's rows
        start = (first[:, None] + rows[:, :, k] * across[:, None])[:, :, None]  # (B, S, 1)
        return _sum(pixels[start + columns[:, None, :, j]] * column_weights[:, None, :, j, None] for j in range(columns.shape[2]))

    lines = ((line(k), row_weights[:, :, k, None, None]) for k in range(rows.shape[2]))
    if view.interpolation != "linear":
        return _whole(_sum(each * weight for each, weight in lines)).to(torch.uint8)
    # OpenCV drops bits on its way: 4 after the columns, 16 of each row's share
    return (
        ((_sum(((each * 128).floor() * weight / 32).floor() for each, weight in lines) + 2) / 4)
        .floor()
        .clamp(0, 255)
        .to(torch.uint8)
    )


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(operator.add, terms)


def _taps(start: Tensor, extent: Tensor, view: View, shrinks: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """(B, S, K) int64 places along an axis, and float32 weights: of the stretches from `start` (B,) over `extent`, as cv2.resize has them."""
    size, how = view.size, view.interpolation
    scale = (extent / size)[:, None]  # (B, 1) px of the image for one of the view
    at = torch.arange(size, device=start.device, dtype=torch.float64)[None]  # (1, S)
    centre = (at + 0.5) * scale - 0.5
    if how == "cubic":
        first, away = centre.floor(), centre - centre.floor()
        offsets = torch.arange(-1, 3, device=start.device, dtype=torch.float64)
        weights = _cubic(away[:, :, None] - offsets)  # (B, S, 4)
    elif how == "linear":
        first, away = centre.floor(), centre - centre.floor()
        offsets = torch.arange(2, device=start.device, dtype=torch.float64)
        weights = (torch.stack([1 - away, away], 2) * 2048).round() / 2048
    else:
        # where either side grows OpenCV's "area" is linear, from one edge to the other
        first = (at * scale).floor()
        away = ((at + 1) - (first + 1) / scale).clamp(min=0)
        away = away - away.floor()
        offsets = torch.arange(-(-longest // size) + 1, device=start.device, dtype=torch.float64)
        grown = torch.zeros(*away.shape, len(offsets), device=start.device, dtype=torch.float64)
        grown[:, :, 0], grown[:, :, 1] = 1 - away, away
        places = first[:, :, None] + offsets
        covered = torch.minimum(places + 1, ((at + 1) * scale)[:, :, None]) - torch.maximum(places, (at * scale)[:, :, None])
        covered = covered.clamp(min=0)
        shrunk = covered / covered.sum(2, keepdim=True)
        weights = torch.where(shrinks[:, None, None], shrunk, grown)
    places = torch.minimum((first[:, :, None] + offsets).clamp(min=0), (extent - 1)[:, None, None])
    return (places + start[:, None, None]).long(), weights.float()


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.75, as OpenCV's."""
    a, x = -0.75, x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def coloured(images: Tensor, table: Tensor, jitter_as: str = "torchvision") -> Tensor:
    """(B, S, S, 3) uint8 of images (B, S, S, 3) uint8: jitter in its order, grey, blur, solarised, as the table says; jitter_as: the view's."""
    red, green, blue = images.float().unbind(3)
    for place in range(ORDER.start, ORDER.stop):
        which, factors = table[:, place, None, None], table[:, FACTORS]
        if jitter_as == "torchvision":
            red, green, blue = _jitter(red, green, blue, which, factors)
        else:
            red, green, blue = _tensorflow(red, green, blue, which, factors, jitter_as == "added")
    gray, grays = _gray(red, green, blue), table[:, GRAY, None, None] > 0
    values = torch.stack([torch.where(grays, gray, channel) for channel in (red, green, blue)], 3)
    if table.shape[1] > TAPS:
        values = _blurred(values, table[:, TAPS:])
    values = torch.where((table[:, SOLARIZE, None, None, None] > 0) & (values >= 128), 255 - values, values)
    return values.to(torch.uint8)


def _jitter(red: Tensor, green: Tensor, blue: Tensor, which: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's own operation, `which` (B, 1, 1): 0 brightness, 1 contrast, 2 saturation, 3 hue, else none. Channels are (B, S, S)."""
    bright, contrast, saturation, hue = (factor[:, None, None] for factor in factors.unbind(1))
    gray = _gray(red, green, blue)
    mean = gray.mean((1, 2), keepdim=True, dtype=torch.float64).float()
    turned = _by_hsv(red, green, blue, torch.ones_like(hue), hue)
    found = []
    for channel, other in zip((red, green, blue), turned, strict=True):
        # brightness and contrast cut off what follows the point, where saturation rounds
        lit = (channel * bright).clamp(0, 255).floor()
        spread = (channel * contrast + mean * (1 - contrast)).clamp(0, 255).floor()
        vivid = _whole(channel * saturation + gray * (1 - saturation))
        value = torch.where(which == 0, lit, channel)
        value = torch.where(which == 1, spread, value)
        value = torch.where(which == 2, vivid, value)
        found.append(torch.where(which == 3, other, value))
    return found[0], found[1], found[2]


def _tensorflow(
    red: Tensor, green: Tensor, blue: Tensor, which: Tensor, factors: Tensor, added: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_jitter`, of `jitter.Jitter`."""
    bright, contrast, saturation, hue = (factor[:, None, None] for factor in factors.unbind(1))
    hsv = (which == 2) | (which == 3)
    others = _by_hsv(red, green, blue, torch.where(which == 2, saturation, 1.0), torch.where(which == 3, hue, 0.0))
    found = []
    for channel, other in zip((red, green, blue), others, strict=True):
        mean = channel.mean((1, 2), keepdim=True, dtype=torch.float64).float()
        value = torch.where(which == 0, _whole(channel + 255 * bright if added else channel * bright), channel)
        value = torch.where(which == 1, _whole((channel - mean) * contrast + mean), value)
        found.append(torch.where(hsv, other, value))
    return found[0], found[1], found[2]


def _gray(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """OpenCV's grey, weights in 15 bits."""
    return ((red * 9798 + green * 19235 + blue * 3735 + 16384) / 32768).floor()


def _whole(values: Tensor) -> Tensor:
    return values.clamp(0, 255).round()


def _by_hsv(red: Tensor, green: Tensor, blue: Tensor, vivid: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Saturation times `vivid` and the hue turned by `shift` of 180, over OpenCV's HSV of 8 bits."""
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    sixth = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    )
    saturation = _whole(((spread * (1044480 / value.clamp(min=1)).round() + 2048) / 4096).floor() * vivid)
    hue = ((sixth * (122880 / spread.clamp(min=1)).round() + 2048) / 4096).floor()
    hue = torch.where(hue < 0, hue + 180, hue) + shift
    hue = torch.where(hue >= 180, hue - 180, hue) / 30
    chroma = value * saturation / 255
    # OpenCV cuts off what follows the point in whole blocks of 32 columns, and rounds in what is left of a line
    size, channels = red.shape[2], []
    more = 0.5 * (torch.arange(size, device=red.device) >= size // 32 * 32)
    for start in (5, 3, 1):
        k = hue + start
        k = torch.where(k >= 6, k - 6, k)
        channels.append((value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) + more).floor())
    return channels[0], channels[1], channels[2]


def _blurred(values: Tensor, kernels: Tensor) -> Tensor:
    """(B, S, S, 3) with each row's own kernel (B, K) along both axes, mirrored at the edges; a kernel of zeros leaves it as it is."""
    taps, size = kernels.shape[1], values.shape[1]
    reach = torch.arange(-(taps // 2), taps // 2 + 1, device=values.device)
    places = (torch.arange(size, device=values.device)[:, None] + reach).abs()  # (S, K)
    period = max(2 * (size - 1), 1)
    places = places % period
    places = torch.where(places >= size, period - places, places)
    weights = kernels[:, :, None, None, None]
    across = _sum(values.index_select(2, places[:, k]) * weights[:, k] for k in range(taps))
    down = _sum(across.index_select(1, places[:, k]) * weights[:, k] for k in range(taps))
    return torch.where(kernels.sum(1)[:, None, None, None] > 0, _whole(down), values)
