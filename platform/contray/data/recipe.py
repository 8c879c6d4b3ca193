"""What is drawn for the views of many samples at once: the numbers that `views.Pipeline` draws sample by sample, bit for bit, as one table.

A row of the table says all that `rendering.py` must know to make a view's pixels of its image.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..methods._base import View
from . import philox
from .draws import Draws, stream
from .jitter import jitter_ranges
from .views import _geometry

COVERED = {
    "size", "count", "source", "kind", "channels", "crop", "ratio", "flip", "geometry", "interpolation", "jitter", "jitter_p", "jitter_as", "gray", "blur",
    "blur_sigma", "solarize",
}  # fmt: skip
_DEFAULT = View()
BOX, FLIP, FACTORS, ORDER, GRAY, SOLARIZE, TAPS = slice(0, 4), 4, slice(5, 9), slice(9, 13), 13, 14, 15  # columns of the table
NOTHING = 4  # in place of an operation of the jitter


def uncovered(views: Mapping[str, View], channels: int = 0) -> str:
    """What of these views is drawn on the CPU alone, in words; empty where nothing is."""
    if channels:
        return f"images of data.channels {channels}"
    for name, view in views.items():
        if view.kind != "image":
            return f"views.{name}.kind {view.kind}"
        if view.crop == (0.0, 0.0):
            return f"views.{name}.crop 0 0"
        if view.interpolation not in ("linear", "cubic", "area"):
            return f"views.{name}.interpolation {view.interpolation}"
        for field in dataclasses.fields(View):
            value = getattr(view, field.name)
            if field.name not in COVERED and value != getattr(_DEFAULT, field.name):
                if field.name == "randaugment" and not value[0]:
                    continue
                shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
                return f"views.{name}.{field.name} {shown}"
    return ""


@dataclass(frozen=True)
class Stage:
    """One key of `Batch.views`, and its random streams as in `views.py`."""

    name: str
    view: View
    place: int
    colour: int


class Recipes:
    """Draws the tables of the views of samples: `recipes((seed, epoch), ids, sizes)` -> {name: (B, 15 + taps) float32}.

    Columns: box (top, left, height, width, in px), whether flipped, factors of brightness (or what is added), contrast and saturation
    and the shift of hue (of 180), the four operations in their order (NOTHING where not applied), whether grey, whether solarised, and the
    blur's kernel (zeros: none).
    """

    def __init__(self, views: Mapping[str, View], strength: float) -> None:
        self.strength, self.draws = strength, Draws()
        self.stages = [
            Stage(
                key,
                view,
                stream(f"group {view.geometry} {number}" if view.geometry else f"place {name} {number}"),
                stream(f"colour {name} {number}"),
            )
            for name, view in views.items()
            for number, key in enumerate(view.names(name))
        ]

    def __call__(self, key: tuple[int, int], ids: np.ndarray, sizes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """key: (seed, epoch); ids: (B,); sizes: of each view's images (B, 2) height and width."""
        found = {}
        for stage in self.stages:
            table = np.zeros((len(ids), self.columns(stage.view)), np.float32)
            table[:, ORDER] = NOTHING
            self._place(table, key, ids, stage, *sizes[stage.name].astype(np.float64).T)
            if self.strength:
                self._colours(table, key, ids, stage)
            found[stage.name] = table
        return found

    def columns(self, view: View) -> int:
        """Of a view's table: as many more as the longest kernel of its blur has, where it has one."""
        sigma = max(view.blur_sigma[0], view.blur_sigma[1] * self.strength)
        return TAPS + (int(sigma * 3.5) * 2 + 1 if view.blur * self.strength > 0 else 0)

    def _place(
        self, table: np.ndarray, key: tuple[int, int], ids: np.ndarray, stage: Stage, height: np.ndarray, width: np.ndarray
    ) -> None:
        """As `views._geometry`, two tries for all samples; the few that need more are drawn one by one."""
        view, draw = stage.view, philox.Cursor(*key, ids, stage.place, 8)
        if view.flip > 0:
            table[:, FLIP] = draw.random() < view.flip
        low, high = math.log(view.ratio[0]), math.log(view.ratio[1])
        pending = np.ones(len(ids), bool)
        for _ in range(2):
            area = height * width * (view.crop[0] + (view.crop[1] - view.crop[0]) * draw.random(pending))
            exponent = low + (high - low) * draw.random(pending)
            ratio = np.array([math.exp(x) for x in exponent.tolist()])  # numpy's own may differ in the last bit
            w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
            fits = pending & (w > 0) & (w <= width) & (h > 0) & (h <= height)
            top = np.floor(draw.random(fits) * (height - h + 1))
            left = np.floor(draw.random(fits) * (width - w + 1))
            table[fits, BOX] = np.stack([top, left, h, w], 1)[fits]
            pending &= ~fits
        for row in np.flatnonzero(pending).tolist():
            self.draws.move(*key, int(ids[row]), stage.place)
            tall, broad = int(height[row]), int(width[row])
            (top, left, h, w), _ = _geometry(self.draws, view, tall, broad)
            table[row, BOX] = round(top * tall), round(left * broad), max(1, round(h * tall)), max(1, round(w * broad))

    def _colours(self, table: np.ndarray, key: tuple[int, int], ids: np.ndarray, stage: Stage) -> None:
        """As `policy.steps` has them drawn."""
        view, strength = stage.view, self.strength
        draw = philox.Cursor(*key, ids, stage.colour, 12)

        def happens(p: float) -> np.ndarray:
            p = min(1.0, p * strength)
            return np.full(len(ids), p >= 1) if p >= 1 or p <= 0 else np.less(draw.random(), p)

        def between(low: float, high: float, where: np.ndarray) -> np.ndarray:
            return low + (high - low) * draw.random(where)

        jittered = happens(view.jitter_p)
        if view.jitter_p:
            *ranges, hues = jitter_ranges(view, strength)
            for column, (low, high) in enumerate(ranges):
                table[:, FACTORS.start + column] = between(low, high, jittered)
            table[:, FACTORS.stop - 1] = np.floor(180 * between(*hues, jittered)) % 180
            table[jittered, ORDER] = self._orders(key, ids[jittered], stage.colour)
            if not hues[1]:
                table[:, ORDER][table[:, ORDER] == 3] = NOTHING
        table[:, GRAY] = happens(view.gray)
        blurred = happens(view.blur)
        if table.shape[1] > TAPS:
            sigma = between(view.blur_sigma[0], max(view.blur_sigma[0], view.blur_sigma[1] * strength), blurred)
            draw.random(blurred)  # of the kernel's size, which has but one
            table[blurred, TAPS:] = kernels(sigma[blurred], table.shape[1] - TAPS)
        table[:, SOLARIZE] = happens(view.solarize)

    def _orders(self, key: tuple[int, int], ids: np.ndarray, colour: int) -> np.ndarray:
        orders, short = philox.shuffled(philox.words(*key, ids, colour, (5,)))
        for row in np.flatnonzero(short).tolist():
            self.draws.move(*key, int(ids[row]), colour)
            order = [0, 1, 2, 3]
            self.draws.generator.shuffle(order)
            orders[row] = order
        return orders


def kernels(sigma: np.ndarray, most: int) -> np.ndarray:
    """(B, most) Gaussian kernels, as albumentations makes them, with zeros before and behind."""
    reach, x = (sigma * 3.5).astype(np.int64), np.arange(most) - most // 2
    weights = np.exp(-0.5 * (x / sigma[:, None]) ** 2) * (np.abs(x) <= reach[:, None])
    return weights / weights.sum(1, keepdims=True)
