"""The look at a data set as a picture: what to look at, classes, sizes, channels, equal images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..drawing import COLOURS, SHORT, drawable
from .groups import Group
from .page import small
from .result import Inspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

PAIRS, BARS = 6, 40  # groups of equal images that are drawn, and classes whose bars have names
NAMES = ("red", "green", "blue")


def draw(result: Inspection, out: Path) -> None:
    """Write it."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    shown = result.groups[:PAIRS]
    lines = [f"{each.severity}: {each.words}" for each in result.findings if each.severity != "note"] or ["nothing to look at"]
    heights = [0.22 * (len(lines) + 1) + 0.2, 3.0, *([2.4] if shown else [])]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(heights), 1, height_ratios=heights)))
    told = "\n".join([drawable(result.name), *(drawable(line, 150) for line in lines)])
    parts[0].text(0.01, 0.97, told, va="top", fontsize=9, linespacing=1.5)
    axes = parts[1].subplots(1, 3)
    _classes(axes[0], result)
    _sizes(axes[1], result)
    _channels(axes[2], result)
    if shown:
        _groups(parts[2], result, shown)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def _plain(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=9, loc="left")
    axis.tick_params(labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _classes(axis: Axes, result: Inspection) -> None:
    classes = result.classes
    _plain(axis, "images of each class" if classes else "no labels")
    if classes is None:
        axis.set_axis_off()
        return
    order = np.argsort(classes.train, kind="stable")[::-1]
    places = np.arange(len(order))
    axis.bar(places, np.array(classes.train)[order], color=COLOURS[0], label="train")
    if classes.test:
        axis.bar(places, np.array(classes.test)[order], color=COLOURS[1], width=0.4, label="test")
        axis.legend(frameon=False, fontsize=7)
    if len(order) <= BARS:
        axis.set_xticks(places, [drawable(classes.names[i], SHORT) for i in order], rotation=90, fontsize=7)
    else:
        axis.set_xticks([])
        axis.set_xlabel(f"{len(order):,} classes, the largest first", fontsize=7)


def _sizes(axis: Axes, result: Inspection) -> None:
    _plain(axis, "images by their shorter side")
    sides = [part.sizes.shorter for part in result.parts]
    some = np.concatenate(sides)
    if not len(some):
        return
    low, high = max(some.min() / 1.1, 1), max(some.max() * 1.1, 2)
    axis.hist(
        sides,
        np.geomspace(low, high, 30).tolist(),
        color=list(COLOURS[: len(sides)]),
        stacked=True,
        label=[part.name for part in result.parts],
    )
    axis.set_xscale("log", base=2)
    axis.set_xlabel("px", fontsize=7)
    axis.set_yscale("symlog")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _channels(axis: Axes, result: Inspection) -> None:
    _plain(axis, "training pixels: mean and deviation")
    if result.channels is None:
        axis.set_axis_off()
        return
    mean, std = result.channels.mean, result.channels.std
    names = NAMES if len(mean) == len(NAMES) else [str(channel) for channel in range(len(mean))]
    axis.bar(
        names, mean, yerr=std, capsize=4, color=[COLOURS[1], COLOURS[2], COLOURS[0]] if len(mean) == 3 else COLOURS[0], alpha=0.75
    )
    axis.set_ylim(0, 1)


def _groups(figure: SubFigure, result: Inspection, shown: Sequence[Group]) -> None:
    """Pairs side by side: the first image of a group, and the first of its other split, or its second."""
    figure.suptitle("equal images, those in training and test first", fontsize=9, x=0.01, ha="left")
    axes = figure.subplots(1, 2 * len(shown), squeeze=False)[0]
    for axis in axes:
        axis.set_axis_off()
    for at, group in enumerate(shown):
        first = group.members[0]
        other = next((each for each in group.members if each[0] != first[0]), group.members[1])
        for axis, (split, place, name, label) in zip(axes[2 * at : 2 * at + 2], (first, other), strict=True):
            image = next(each for each in result.found if each.name == split).image(place)
            if image is not None:
                axis.imshow(small(image), interpolation="nearest")
            axis.set_title(f"{split}\n{drawable(name.rpartition('/')[2], SHORT)}\n{drawable(label, SHORT)}".strip(), fontsize=6)
