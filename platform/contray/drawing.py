"""What pictures have in common: names as they can be drawn, curves, and how similar features find positives and negatives."""

from __future__ import annotations

import math
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
    figure.suptitle(drawable(title), fontsize=11)
    figure.savefig(out, dpi=120)
    plt.close(figure)
    return out


def draw_runs(runs: Sequence[tuple[str, list[list[tuple[int, float]]]]], metric: str, out: Path) -> Path:
    """A metric of several configurations; runs: names, and the (step, value) pairs of each seed. Seeds are thin, their mean is thick."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, histories) in enumerate(runs):
        colour, seeds = COLOURS[place % len(COLOURS)], [dict(history) for history in histories]
        look = {"color": colour, "ls": DASHES[place % len(DASHES)], "marker": MARKERS[place % len(MARKERS)]}
        common = sorted(set.intersection(*map(set, seeds)))
        mean = [sum(seed[step] for seed in seeds) / len(seeds) for step in common]
        for seed in seeds if len(seeds) > 1 else []:
            axes.plot(*zip(*sorted(seed.items()), strict=True), color=colour, lw=0.7, alpha=0.45)
        label = drawable(name, 100) if len(seeds) == 1 else f"{drawable(name, 100)} (mean of {len(seeds)} seeds)"
        axes.plot(common, mean, **look, lw=1.6, markevery=max(1, len(common) // 12), ms=4, label=label)
    axes.set(xlabel="optimiser steps", ylabel=CURVES.get(metric, metric))
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out


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
    figure.suptitle(drawable(title, 120), fontsize=11)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out
