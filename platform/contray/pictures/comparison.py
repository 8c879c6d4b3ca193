"""Runs beside each other: a line for each configuration, dots with a standard deviation over seeds."""

from __future__ import annotations

import textwrap
from pathlib import Path

from ..drawing import COLOURS, drawable
from ..tables import SHARES
from ..track.comparing import Comparison, Row

STYLES = {  # shape and fill tell what colour does
    "knn_top1": ("k-NN", "o", COLOURS[0], True), "linear_top1": ("linear probe", "s", COLOURS[1], True),
    "knn_val_top1": ("k-NN, held out", "o", COLOURS[0], False), "linear_val_top1": ("linear probe, held out", "s", COLOURS[1], False),
    "random_linear_top1": ("untrained, linear", "|", "0.35", True), "pixels_linear_top1": ("pixels, linear", "x", "0.35", True),
}  # fmt: skip
WIDE, LINES = 38, 3  # characters of a label's line, and lines of it; beyond, rows are numbered and the names stand below
SPREAD = 0.09  # of a row's height, between its marks
PANELS = 4  # further evaluations that are drawn


def draw(found: Comparison, out: Path) -> Path:
    """Into `out`, by its suffix; k-NN and linear probe, what pixels and the untrained encoder reach, and a panel for each further evaluation."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    rows, further = found.rows, found.further[:PANELS]
    scored = any(name in row.metrics for row in rows for name in STYLES)
    panels = [*([""] if scored else []), *further]
    names = [[line for part in label(row) for line in textwrap.wrap(part, WIDE)] for row in rows]
    numbered = any(len(lines) > LINES for lines in names)
    below = [
        line
        for number, row in enumerate(rows, 1)
        for line in textwrap.wrap(f"#{number}  {': '.join(label(row))}", 110, subsequent_indent="      ")
    ]
    tall = 1.5 + sum(0.5 if numbered else max(0.5, 0.19 * len(lines) + 0.12) for lines in names)
    deep = 0.17 * len(below) + 0.2 if numbered else 0.0
    figure = Figure(figsize=(max(8.0, 5.2 + 2.6 * len(panels)), tall + deep), layout="constrained")
    above, *foot = figure.subfigures(1 + numbered, 1, height_ratios=(tall, deep)[: 1 + numbered], squeeze=False)[:, 0]
    for part in foot:
        part.text(0.01, 1.0, "\n".join(below), va="top", fontsize=8, linespacing=1.35)
    axes = above.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=[2.2 if not name else 1 for name in panels])[0]
    for axis, panel in zip(axes, panels, strict=True):
        styles = STYLES if not panel else {panel: (panel, "D", COLOURS[2], True)}
        drawn = [name for name in styles if any(name in row.metrics for row in rows)]
        for at, name in enumerate(drawn):
            word, marker, colour, full = styles[name]
            scale, down = 100 if name.endswith(SHARES) else 1, SPREAD * (at - (len(drawn) - 1) / 2)  # none covers another
            points = [(row.metrics[name], place + down) for place, row in enumerate(rows) if name in row.metrics]
            errors = [scale * (spread.std or 0.0) for spread, _ in points] if any(spread.n > 1 for spread, _ in points) else None
            axis.errorbar(
                [scale * spread.mean for spread, _ in points], [place for _, place in points], xerr=errors,
                fmt=marker, color=colour, mfc=colour if full else "white", capsize=3, ms=6, label=word,
            )  # fmt: skip
        axis.set_xlabel("top-1 accuracy in per cent" if not panel else drawable(panel.replace("_", " "), 40), fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.margins(x=0.08)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_yticks(
        range(len(rows)), [f"#{i}" if numbered else "\n".join(lines) for i, lines in enumerate(names, 1)], fontsize=9
    )
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    if scored:
        above.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out


def label(row: Row) -> list[str]:
    """The run's name, and what it is: method and preset, its settings."""
    what = f"{Path(row.method).stem} {row.preset}" + (f": {row.settings}" if row.settings else "")
    return [drawable(part, 240) for part in (row.name, what) if part]
