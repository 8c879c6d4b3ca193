"""A study's picture: ours with its seeds and intervals, the paper's beside it on an axis of its own, the verdict in the title."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..drawing import COLOURS, DASHES, MARKERS, drawable
from .claims import Agrees, factor, spoken
from .form import Arm, Study
from .result import StudyResult, interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THEIRS = COLOURS[1]
OURS = (COLOURS[0], *COLOURS[2:])
WORDS = {"supported": "#00734f", "contradicted": "#b03a00", "undecided": "#555555"}
ALIKE = 5.0  # points within which the arms' untrained encoders are drawn as one
WIDTH, NAME = 100, 34  # characters of a line of the title, and of an arm


def draw(study: Study, result: StudyResult, path: Path) -> Path:
    """The picture as a file; its ending says of what kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure(study, result).savefig(path, dpi=120)
    return path


def figure(study: Study, result: StudyResult) -> Figure:
    """Curve over a grid's values, dots for named arms, a matrix of pairs, a scatter for `Agrees`; a panel for each unit of what the claims are about."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    arms = list(result.values)
    panels = _panels(study)
    if all(isinstance(arm, tuple) and len(arm) == 2 for arm in arms):
        count = 1 + bool(study.paper)
        drawn = Figure(figsize=(1 + 5.2 * count, 5.2), layout="constrained")
        _matrices(drawn.subplots(1, count, squeeze=False)[0], study, result)
    else:
        curve = all(isinstance(arm, (int, float)) for arm in arms)
        tall = 3.9 if curve else 1.5 + 0.38 * len(arms) * max(1, len(panels[0]) / 2 if isinstance(panels[0], list) else 1)
        drawn = Figure(figsize=(1 + 5.4 * len(panels), max(tall, 3.4)), layout="constrained")
        for axis, panel in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            if isinstance(panel, Agrees):
                _scatter(axis, panel, study, result)
            else:
                (_curve if curve else _dots)(axis, panel, study, result)
    claim = _folded(study.claim, min(WIDTH, round(12 * drawn.get_figwidth())))
    word = result.verdict.word
    drawn.suptitle(f"{claim}\n{study.name}, scale {result.scale}: {word}", fontsize=10, color=WORDS[word])
    return drawn


def _panels(study: Study) -> list[Any]:
    """What is drawn: metrics that share a unit in one panel, each other one by itself, each Agrees as a scatter."""
    agrees = [form for form in study.expect if isinstance(form, Agrees)]
    others = [form for form in study.expect if not isinstance(form, Agrees)]
    if agrees and not others:
        return agrees
    named = dict.fromkeys([study.metric, *(name for form in others for name in form.metrics)])
    points, own = ([name for name in named if (factor(name) == 100) == way] for way in (True, False))
    return [*([points] if points else []), *([name] for name in own), *agrees]


def _numbers(result: StudyResult, arm: Arm, metric: str) -> tuple[list[float], float, float]:
    """Of an arm each seed, their mean and half of its interval (0 of one seed), in the unit that is drawn."""
    seeds = [factor(metric) * value for value in result.seeds_of(arm, metric).values()]
    mean, half = interval(seeds)
    return seeds, mean, half if math.isfinite(half) else 0.0


def _arm(result: StudyResult, arm: Arm) -> str:
    """An arm's name, with how many of its seeds diverged: they have no dot."""
    lost = sum(each.get(result.study.metric, 0.0) is None for each in result.values[arm].values())
    name = drawable(spoken(arm), NAME)
    return f"{name}\n{lost} of {len(result.values[arm])} diverged" if lost else name


def _label(metric: str) -> str:
    return metric.replace("_top1", " top-1").replace("_", " ") + (" %" if factor(metric) == 100 else "")


def _folded(words: str, width: int = 64) -> str:
    return "\n".join(textwrap.wrap(drawable(words, 400), width))


def _tidy(axis: Any) -> None:
    axis.grid(alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _curve(axis: Any, metrics: Sequence[str], study: Study, result: StudyResult) -> None:
    """Values of a grid at equal distances, as the tests of order and of a peak see them."""
    arms = list(result.values)
    theirs = [place for place, arm in enumerate(arms) if arm in study.paper and study.metric in metrics]
    for number, metric in enumerate(metrics):
        look = {"color": OURS[number % len(OURS)], "marker": MARKERS[number], "ls": DASHES[number % len(DASHES)]}
        found = [_numbers(result, arm, metric) for arm in arms]
        means, halves = [each[1] for each in found], [each[2] for each in found]
        label = f"ours: {_label(metric)}" if theirs else _label(metric)
        axis.errorbar(range(len(arms)), means, halves, **look, capsize=4, lw=1.8, label=label)
        for place, (seeds, _, _) in enumerate(found):
            axis.plot([place + 0.06] * len(seeds), seeds, ".", color=look["color"], alpha=0.6, ms=5)
    _untrained(axis, True, metrics, result)
    axis.set_xticks(range(len(arms)), [_arm(result, arm) for arm in arms])
    axis.set_xlim(-0.3, len(arms) - 0.7)
    axis.set(xlabel=", ".join(study.space), ylabel=_label(metrics[0]) if len(metrics) == 1 else "%")
    _tidy(axis)
    handles, labels = axis.get_legend_handles_labels()
    if theirs:
        axis.yaxis.label.set_color(OURS[0])
        twin = axis.twinx()
        numbers = [study.paper[arms[place]] for place in theirs]
        twin.plot(theirs, numbers, color=THEIRS, marker="D", mfc="none", ls="--", lw=1.4, ms=6, label="paper")
        twin.set_ylabel(_folded(study.paper_metric, 44), color=THEIRS, fontsize=8)
        twin.spines["top"].set_visible(False)
        more = twin.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    _legend(axis, handles, labels)


def _dots(axis: Any, metrics: Sequence[str], study: Study, result: StudyResult) -> None:
    """Named arms from top to bottom. No bars: their axis would have to begin at 0."""
    arms = list(result.values)
    theirs = [place for place, arm in enumerate(arms) if arm in study.paper and study.metric in metrics]
    for number, metric in enumerate(metrics):
        look = {"color": OURS[number % len(OURS)], "marker": MARKERS[number]}
        found = [_numbers(result, arm, metric) for arm in arms]
        places = [place + 0.2 * (number - (len(metrics) - 1) / 2) for place in range(len(arms))]
        known = [(mean, place, half) for place, (seeds, mean, half) in zip(places, found, strict=True) if seeds]
        if known:
            means, heights, halves = zip(*known, strict=True)
            label = f"ours: {_label(metric)}" if theirs else _label(metric)
            axis.errorbar(means, heights, xerr=halves, ls="none", **look, capsize=4, ms=7, lw=1.6, label=label)
        for place, (seeds, _, _) in zip(places, found, strict=True):
            axis.plot(seeds, [place - 0.13] * len(seeds), ".", color=look["color"], alpha=0.6, ms=5)
            if not seeds:
                middle = {"transform": axis.get_yaxis_transform(), "ha": "center", "va": "center"}
                axis.text(0.5, place, "no value", fontsize=8, color="0.4", **middle)
    _untrained(axis, False, metrics, result)
    axis.set_yticks(range(len(arms)), [_arm(result, arm) for arm in arms])
    axis.set_ylim(len(arms) - 0.5, -0.5)
    axis.set_xlabel(_label(metrics[0]) if len(metrics) == 1 else "%")
    axis.margins(x=0.08)
    _tidy(axis)
    handles, labels = axis.get_legend_handles_labels()
    if theirs:
        axis.xaxis.label.set_color(OURS[0])
        twin = axis.twiny()
        numbers = [study.paper[arms[place]] for place in theirs]
        twin.plot(numbers, theirs, "D", color=THEIRS, ms=7, mfc="none", mew=1.6, label="paper")
        twin.set_xlabel(_folded(study.paper_metric), color=THEIRS, fontsize=8)
        twin.margins(x=0.1)
        more = twin.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    _legend(axis, handles, labels)


def _untrained(axis: Any, across: bool, metrics: Sequence[str], result: StudyResult) -> None:
    """Where the untrained encoders are, by each metric in its colour: one line where they are alike, else each arm's own; nothing where that lies so far
    off that the arms would stand in a heap. across: arms stand from left to right.
    """
    every = [value for metric in metrics for arm in result.values for value in _numbers(result, arm, metric)[0]]
    for number, metric in enumerate(metrics):
        known = {
            place: mean(found)
            for place, arm in enumerate(result.values)
            if (found := _numbers(result, arm, f"random_{metric}")[0])
        }
        if not known or not every or min(every) - mean(known.values()) >= max(every) - min(every):
            continue
        one = len(metrics) == 1
        look = {
            "color": "0.5" if one else OURS[number % len(OURS)],
            "label": "untrained" if one else f"untrained: {_label(metric)}",
            "ls": ":",
            "lw": 1.4,
        }
        if max(known.values()) - min(known.values()) < ALIKE:
            (axis.axhline if across else axis.axvline)(mean(known.values()), **look)
        elif across:
            axis.plot([*known], [*known.values()], **look)
        else:
            axis.plot([*known.values()], [*known], **look | {"ls": "", "marker": "|", "ms": 16})


def _legend(axis: Any, handles: list[Any], labels: list[str]) -> None:
    """Below the figure, on the side of the panel."""
    if len(labels) > 1:
        panel = axis.get_subplotspec()
        panels, number = panel.get_gridspec().ncols, panel.colspan.start
        side = "center" if 0 < number < panels - 1 or panels == 1 else "right" if number else "left"
        columns = 4 if sum(sorted(map(len, labels))[-4:]) < 13 * axis.figure.get_figwidth() / panels else 2
        axis.figure.legend(handles, labels, loc=f"outside lower {side}", ncols=columns, frameon=False, fontsize=8)


def _matrices(axes: Sequence[Any], study: Study, result: StudyResult) -> None:
    arms = list(result.values)
    sides = [list(dict.fromkeys(arm[side] for arm in arms)) for side in (0, 1)]
    alike = set(sides[0]) == set(sides[1])  # pairs: which stands first says nothing
    ours = {arm: _numbers(result, arm, study.metric)[1] for arm in arms}
    for axis, (told, cells) in zip(
        axes, (("ours: " + _label(study.metric), ours), (f"paper: {study.paper_metric}", study.paper)), strict=False
    ):
        if alike:
            cells = {**{arm[::-1]: value for arm, value in cells.items()}, **cells}
        grid = [[float(cells.get((row, column), math.nan)) for column in sides[1]] for row in sides[0]]
        shown = axis.imshow(grid, cmap="viridis", aspect="auto" if not alike else "equal")
        low, high = shown.get_clim()
        for y, values in enumerate(grid):
            for x, value in enumerate(values):
                if math.isfinite(value):
                    dark = (value - low) < 0.55 * (high - low)
                    axis.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=9, color="white" if dark else "black")
        axis.set_xticks(
            range(len(sides[1])), [drawable(str(each), NAME) for each in sides[1]], rotation=30 if len(sides[1]) > 5 else 0
        )
        axis.set_yticks(range(len(sides[0])), [drawable(str(each), NAME) for each in sides[0]])
        keys = list(study.space) if len(study.space) == 2 else ["", ""]
        axis.set(xlabel=keys[1], ylabel=keys[0])
        axis.set_title(drawable(told), fontsize=9)


def _scatter(axis: Any, form: Agrees, study: Study, result: StudyResult) -> None:
    metric = form.metric or study.metric
    for number, arm in enumerate(result.values):
        left, right = result.seeds_of(arm, form.measure), result.seeds_of(arm, metric)
        pairs = [(factor(form.measure) * left[seed], factor(metric) * right[seed]) for seed in left.keys() & right.keys()]
        if pairs:
            look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            axis.scatter(*zip(*pairs, strict=True), s=18, alpha=0.45, **look)
            axis.scatter(
                *(sum(side) / len(side) for side in zip(*pairs, strict=True)),
                s=60,
                edgecolor="black",
                **look,
                label=drawable(spoken(arm), NAME),
            )
    axis.set(xlabel=_label(form.measure), ylabel=_label(metric))
    _tidy(axis)
    axis.legend(fontsize=7, frameon=False)
