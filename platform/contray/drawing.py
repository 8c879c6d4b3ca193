"""What pictures have in common: names as they can be drawn, curves, and how similar features find positives and negatives."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

CURVES = {
    "loss": "loss",
    "contrast_top1": "positive is the nearest",
    "knn_val_top1": "held-out k-NN top-1",
    "rankme": "RankMe of the features",
    "lr": "learning rate",
}
# Okabe & Ito's colours, which all eyes tell apart (https://jfly.uni-koeln.de/color), without the yellow that white swallows
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, DASHES = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">"), ("-", "--", "-.", ":")  # what tells beside colour
LINE = 0.2  # inches of a line of a legend
Points = Sequence[tuple[int, float]]  # (step, value), in the order of steps
NAME, SHORT = 60, 16  # characters of a name in a title or legend, and below a small picture


def drawable(name: str, most: int = NAME) -> str:
    """One line of at most `most` characters that matplotlib draws as it stands: no mathematics, and every glyph in its own font.

    What the font lacks, and bytes that are no text, are written as escapes, so that two names never look like one for that. A long name loses
    its middle. matplotlib leaves labels that begin with an underscore out of legends: a space stands before it.
    """
    known = _glyphs()
    line = " ".join("".join(char if char.isspace() or ord(char) in known else _escaped(char) for char in name).split())
    if len(line) > most:
        line = f"{line[: most - most // 2 - 1]}…{line[len(line) - most // 2 :]}"
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$")


def _escaped(char: str) -> str:
    """As Python writes it; the bytes of a file's name that are no text, which Python keeps as lone surrogates, as bytes."""
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@cache
def _glyphs() -> frozenset[int]:
    """Code points that both faces of matplotlib's default font have, without those that show nothing."""
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    faces = [FT2Font(findfont(FontProperties(weight=weight))).get_charmap() for weight in ("normal", "bold")]
    return frozenset(code for code in faces[0].keys() & faces[1].keys() if chr(code).isprintable())


def draw(histories: Mapping[str, list[tuple[int, float]]], title: str, out: Path) -> Path:
    """One panel per metric of CURVES that has points; histories: name -> (step, value) pairs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [name for name in CURVES if histories.get(name)]
    figure, axes = plt.subplots(
        1, max(len(shown), 1), figsize=(3.8 * max(len(shown), 1), 3.2), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], shown, strict=False):
        steps, values = zip(*sorted(histories[name]), strict=True)
        axis.plot(steps, values, marker="o" if len(steps) < 15 else "", ms=4, color=COLOURS[0])
        axis.set_title(CURVES[name], fontsize=10)
        axis.set_xlabel("optimiser steps")
        axis.grid(alpha=0.3)
    figure.suptitle("\n".join(textwrap.wrap(drawable(title), 46 * max(len(shown), 1))), fontsize=11)
    figure.savefig(out, dpi=120)
    plt.close(figure)
    return out


def draw_runs(runs: Sequence[tuple[str, Sequence[tuple[str, Points]]]], metric: str, out: Path) -> Path:
    """A metric of several configurations; runs: names, and of each run of it the seed and the (step, value) pairs. Runs are thin, their mean is thick."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    shared = _shared([name for name, _ in runs]) if len(runs) > 1 else ""
    figure = Figure(figsize=(7.6, 4.2 + LINE * len(runs)), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, group) in enumerate(runs):
        colour = COLOURS[place % len(COLOURS)]
        look: dict[str, Any] = {"color": colour, "ls": DASHES[place % len(DASHES)], "marker": MARKERS[place % len(MARKERS)]}
        known = [points for _, points in group if points]
        for points in known if len(known) > 1 else []:
            axes.plot(*zip(*points, strict=True), color=colour, lw=0.7, alpha=0.45)
        steps, values = mean_curve(known)
        label = drawable(f"{name[len(shared) :]}{_mean_of(group, steps)}", 110)
        axes.plot(steps, values, **look, lw=1.6, markevery=max(1, len(steps) // 12), ms=4, label=label)
    axes.set(xlabel="optimiser steps", ylabel=CURVES.get(metric, metric))
    axes.set_title(drawable(shared.rstrip(": ")), fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out


def mean_curve(curves: Sequence[Points]) -> tuple[list[int], list[float]]:
    """(steps, values) of the mean of curves over the steps that all of them span, linear between points; nothing where they share none."""
    import numpy as np

    first, last = (end(points[place][0] for points in curves) for end, place in ((max, 0), (min, -1)))
    steps = sorted({step for points in curves for step, _ in points if first <= step <= last})
    if not steps:
        return [], []
    values = [np.interp(steps, [step for step, _ in points], [value for _, value in points]) for points in curves]
    return steps, np.mean(values, axis=0).tolist()


def _mean_of(group: Sequence[tuple[str, Points]], steps: Sequence[int]) -> str:
    """What a curve is the mean of, in words: nothing where it is one run's own."""
    if len(group) == 1:
        return ""
    seeds = len({seed for seed, _ in group})
    runs = f"{seeds} seeds" if seeds == len(group) else f"{len(group)} runs of {seeds} seed{'s' * (seeds > 1)}"
    if not steps:
        return f" ({runs}, which have no steps in common)"
    longest = max(points[-1][0] for _, points in group if points)
    return f" (mean of {runs}{f', to step {steps[-1]:,}, where one ends' if steps[-1] < longest else ''})"


def _shared(names: Sequence[str]) -> str:
    """What all names begin with, up to a colon."""
    head = names[0].partition(": ")[0] + ": "
    return head if all(name.startswith(head) for name in names) else ""


def draw_similarities(panels: Mapping[str, tuple[Any, Mapping[str, str]]], title: str, out: Path) -> Path:
    """Histograms of positives' and negatives' cosine similarities, one panel below the other; panels: name -> (Similarities, numbers to show)."""
    import torch
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(7.2, 0.9 + 1.9 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    lowest = min(float(min(similar.positive.min(), similar.negative.min())) for similar, _ in panels.values())
    left = max(-1.0, math.floor(10 * lowest - 0.1) / 10)
    kinds = (("negatives: two samples", "negative", "0.55"), ("positives: two views of a sample", "positive", COLOURS[0]))
    for axis, (name, (similar, numbers)) in zip(axes, panels.items(), strict=True):
        low, high = (float(end) for end in torch.cat([similar.positive, similar.negative]).aminmax())
        bins = 40 if high - low > 1e-9 else [low - 0.005, low + 0.005]  # all are one: a bar that can be seen
        for label, kind, colour in kinds:
            values = getattr(similar, kind)
            axis.hist(
                values,
                bins,
                range=(low, high),
                weights=values.new_full(values.shape, 100 / len(values)),
                color=colour,
                histtype="stepfilled",
                edgecolor=colour,
                alpha=0.5,
                label=label,
            )
            axis.axvline(float(values.mean()), color=colour, lw=1.4, ls="--")
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_title(", ".join(f"{word} {value}" for word, value in numbers.items()), fontsize=8, loc="right", color="0.3")
        axis.set_ylabel("% of pairs", fontsize=9)
        axis.set_xlim(left, 1.01)
        axis.grid(alpha=0.25)
    axes[-1].set_xlabel("cosine similarity (dashed: mean)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle("\n".join(textwrap.wrap(drawable(title, 160), 84)), fontsize=10)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out
