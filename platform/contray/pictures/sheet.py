"""A table of small images with a frame and a word at each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..drawing import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG = COLOURS[0], COLOURS[1]  # blue, whole; orange, dashed


class Sheet:
    """One axes whose unit of length is a tile: a hundred tiles are drawn in a second, a hundred axes in ten.

    left: tiles' widths to the left of the table, for words about rows; top: heights above it; pitch: tiles from row to row.
    """

    def __init__(
        self,
        rows: float,
        columns: float,
        title: str,
        *,
        note: str = "",
        left: float = 0.0,
        top: float = 0.0,
        inches: float = 0.85,
        pitch: float = 1.0,
    ) -> None:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display

        self.pitch, rows = pitch, pitch * rows
        width, height = (columns + left) * inches, (rows + top) * inches
        head, foot = 0.42, 0.14 + 0.15 * (note.count("\n") + 1) if note else 0.08
        wide = max(width + 0.2, 0.085 * len(title), *(0.065 * len(line) for line in note.split("\n")))
        self.figure: Figure = Figure(figsize=(wide, height + head + foot))
        size = (wide, height + head + foot)
        self.axes = self.figure.add_axes((0.1 / size[0], foot / size[1], width / size[0], height / size[1]))
        self.axes.set_axis_off()
        self.axes.set(xlim=(-left, columns), ylim=(rows, -top), autoscale_on=False)
        self.figure.text(0.1 / size[0], 1 - 0.14 / size[1], title, fontsize=11, va="top")
        if note:
            self.figure.text(0.1 / size[0], 0.08 / size[1], note, fontsize=8, color="0.35", va="bottom")

    def tile(self, row: float, column: float, image: np.ndarray, *, frame: str = "", below: str = "", **how: Any) -> None:
        """An image (H, W, 3) or, with `how` to colour it, (H, W). frame: its colour, dashed where it is WRONG; below: a word."""
        side, row = 0.8 if below else 0.94, self.pitch * row
        left, top = column + (1 - side) / 2, row + 0.02
        sharp = "nearest" if max(image.shape[:2]) <= 128 else "antialiased"
        self.axes.imshow(image, extent=(left, left + side, top + side, top), interpolation=sharp, aspect="auto", zorder=1, **how)
        if frame:
            from matplotlib.patches import Rectangle

            self.axes.add_patch(
                Rectangle(
                    (left, top),
                    side,
                    side,
                    fill=False,
                    edgecolor=frame,
                    linewidth=2.2,
                    ls="--" if frame == WRONG else "-",
                    zorder=2,
                )
            )
        if below:
            self.word(row + 0.85, column + 0.5, below, va="top")

    def outline(self, row: float, column: float, mask: np.ndarray, colour: str) -> None:
        """Draw the border of a mask (H, W) on a tile without a word below it: along the edges of its pixels."""
        from matplotlib.collections import LineCollection

        height, width = mask.shape
        padded = np.pad(mask.astype(bool), 1)
        across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])  # between a pixel and the one above
        down = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
        lines = [((x, y), (x + 1, y)) for y, x in across] + [((x, y), (x, y + 1)) for y, x in down]
        scale, origin = np.array((0.94 / width, 0.94 / height)), np.array((column + 0.03, row + 0.02))
        self.axes.add_collection(
            LineCollection([np.array(line) * scale + origin for line in lines], colors=colour, linewidths=1.2, zorder=3)
        )

    def word(
        self,
        row: float,
        column: float,
        text: str,
        *,
        va: str = "center",
        ha: str = "center",
        colour: str = "0.25",
        size: float = 7.5,
    ) -> None:
        """Text at a place of the table."""
        self.axes.text(column, row, text, ha=ha, va=va, fontsize=size, color=colour)

    def save(self, out: Path) -> None:
        """Write the picture; its folder is made."""
        out.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(out, dpi=130)
