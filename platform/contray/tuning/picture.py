"""A sweep in pictures: the metric against each key, all keys of a trial at once, what mattered, and accuracy against cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..drawing import COLOURS, drawable
from ..training.describing import trial_name
from .domains import listed, logarithmic
from .importance import Importance
from .outcome import Trial
from .ranking import COSTS, called, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST, MAP, ACROSS = COLOURS[1], "viridis_r", 4  # the winner's colour; early trials are light; panels beside each other
SLICES, PARALLEL, IMPORTANCE, PARETO = "parameters.png", "parallel.png", "importance.png", "pareto.png"


def draw(
    trials: Sequence[Trial], space: Mapping[str, Any], metric: str, online: str, folder: Path, *,
    importance: Sequence[Importance] = (), against: str = "", front: Sequence[str] = (),
) -> list[Path]:  # fmt: skip
    """Into `folder`, PNGs, that of the metric against each key first; trials: ranked, the winner first."""
    made = {SLICES: slices(trials, space, metric, online)}
    if any(metric in trial.metrics for trial in trials) and len(space) > 1:
        made[PARALLEL] = parallel(trials, space, metric)
    if importance:
        made[IMPORTANCE] = shares(importance)
    if front:
        made[PARETO] = pareto(trials, metric, against, front)
    for name, figure in made.items():
        figure.savefig(folder / name, dpi=130)
    return [folder / name for name in made]


def slices(trials: Sequence[Trial], space: Mapping[str, Any], metric: str, online: str) -> Figure:
    """A panel for each key; finished trials as dots, the later the darker, stopped ones as crosses at their last online metric."""
    from matplotlib.ticker import LogLocator, NullLocator

    keys = [key for key in space if key != "seed"] or list(space)
    wide, tall = min(len(keys), ACROSS), math.ceil(len(keys) / ACROSS)
    figure, axes = _axes(max(3.4 * wide, 6.5), 0.4 + 3.0 * tall, tall, wide, sharey=True)
    scale = _scale(metric)
    shown: dict[str, Any] = {}
    for axis, key in zip(axes, keys, strict=False):
        known = _sorted(listed(space[key]))
        place = _place(known) if known else float
        for ended, marker, name in (("finished", "o", metric), ("stopped", "x", online)):
            chosen = [trial for trial in trials if trial.status == ended and name in trial.metrics and key in trial.params]
            if chosen:
                shown[f"{ended} ({name})"] = axis.scatter(
                    [place(trial.params[key]) for trial in chosen], [scale * trial.metrics[name] for trial in chosen], marker=marker,
                    c=[_number(trial) for trial in chosen], cmap=MAP, vmin=-len(trials) / 3, vmax=len(trials), s=30,
                )  # fmt: skip
        if trials and trials[0].status == "finished" and metric in trials[0].metrics:
            (shown["best"],) = axis.plot(
                [place(trials[0].params[key])],
                [scale * trials[0].metrics[metric]],
                "o",
                ms=12,
                mfc="none",
                mec=BEST,
                mew=1.8,
                ls="",
            )
        if known:
            axis.set_xticks(range(len(known)), [drawable(str(value), 20) for value in known])
            axis.set_xlim(-0.5, len(known) - 0.5)
        elif logarithmic(space[key]):
            axis.set_xscale("log")
            low, high = space[key].lower, space[key].upper
            subs = (1.0, 2.0, 5.0) if high < 50 * low else (1.0, 3.0) if high < 1000 * low else (1.0,)
            axis.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
            axis.set_xlim(low * (low / high) ** 0.05, high * (high / low) ** 0.05)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(drawable(key))
    for axis in axes[::wide]:
        axis.set_ylabel(called(metric))
    for axis in axes[len(keys) :]:
        axis.remove()
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=3, frameon=False)
    return figure


def parallel(trials: Sequence[Trial], space: Mapping[str, Any], metric: str) -> Figure:
    """A line for each trial over all keys to its metric, by which it is coloured; those that did not finish are grey and end before it."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    places = {
        key: _along(domain, [trial.params[key] for trial in trials if key in trial.params]) for key, domain in space.items()
    }
    figure, (axis,) = _axes(max(1.9 * (len(space) + 1), 6.5), 4.2)
    scale = _scale(metric)
    ended = [each for each in trials if each.status == "finished" and math.isfinite(each.metrics.get(metric, math.nan))]
    values = [scale * trial.metrics[metric] for trial in ended] or [0.0]
    low, high = min(values), max(values)
    norm, tints = Normalize(low, high if high > low else low + 1), colormaps["viridis"]
    for trial in [each for each in reversed(trials) if each.params.keys() >= space.keys()]:
        heights = [places[key][0](trial.params[key]) for key in space]
        if trial in ended:
            value = norm(scale * trial.metrics[metric])
            best = trial is trials[0]
            axis.plot([*heights, value], color=BEST if best else tints(value), lw=2.6 if best else 1.3, alpha=1 if best else 0.75)
        else:
            axis.plot(heights, color="0.75", lw=0.9, ls="--", zorder=1)
    ticks = {**{key: marks for key, (_, marks) in places.items()}, metric: [(norm(at), f"{at:.3g}") for at in _even(low, high)]}
    for at, (key, marks) in enumerate(ticks.items()):
        axis.axvline(at, color="0.3", lw=0.9, zorder=0)
        for height, text in marks:
            last = at == len(space)
            axis.text(
                at + (0.04 if last else -0.04), height, drawable(text, 20), ha="left" if last else "right", va="center", fontsize=8,
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
            )  # fmt: skip
        axis.text(at, 1.07, drawable(called(key) if key == metric else key), ha="center", va="bottom", fontsize=9)
    axis.set(xlim=(-0.45, len(space) + 0.4), ylim=(-0.05, 1.06))
    axis.axis("off")
    figure.supxlabel("orange: the best; grey: stopped or failed", fontsize=9, color="0.3")
    return figure


def shares(found: Sequence[Importance]) -> Figure:
    """Bars of what each key explains, a panel for each metric, with a line at what chance gives."""
    figure, axes = _axes(5.2 * len(found) + 1, 1.3 + 0.42 * max(len(each.shares) for each in found), 1, len(found))
    for axis, each in zip(axes, found, strict=True):
        keys = list(each.shares)[::-1]
        axis.barh(keys, [100 * each.shares[key] for key in keys], color=COLOURS[0], height=0.6, label="explained")
        axis.plot([100 * each.chance[key] for key in keys], keys, "|", color="black", ms=15, mew=2, label="by chance at most")
        axis.set_xlim(0, 100)
        axis.set_xlabel(f"variance of {each.metric} explained [%]\n{each.trials} trials", fontsize=9)
        axis.set_yticks(range(len(keys)), [drawable(key, 40) for key in keys])
        axis.grid(visible=False, axis="y")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def pareto(trials: Sequence[Trial], metric: str, against: str, front: Sequence[str]) -> Figure:
    """The metric over the cost; trials that another beats in both are hollow, the others joined."""
    figure, (axis,) = _axes(6.8, 4.4)
    scale = _scale(metric)
    points = {
        each.name: (each.metrics[against], scale * each.metrics[metric])
        for each in trials
        if each.status == "finished" and all(math.isfinite(each.metrics.get(name, math.nan)) for name in (metric, against))
    }
    beaten = [point for name, point in points.items() if name not in front]
    if beaten:
        axis.plot(*zip(*beaten, strict=True), "o", mfc="none", mec="0.5", label="another is as good in both")
    on = sorted(points[name] for name in front)
    cheap = COSTS[against][0] == "min"
    axis.step(
        *zip(*on, strict=True), "o-", where="post" if cheap else "pre", color=COLOURS[0], ms=7, lw=1.6, label="Pareto front"
    )
    best = points[front[0]]
    axis.plot(*best, "o", ms=13, mfc="none", mec=BEST, mew=1.8, ls="", label="best, measured on the test set")
    for name in front:
        axis.annotate(
            trial_name(name), points[name], xytext=(-6 if cheap else 6, 5), textcoords="offset points", fontsize=8,
            color="0.25", ha="right" if cheap else "left",  # where by the front's nature nothing is
        )  # fmt: skip
    axis.set(xlabel=called(against), ylabel=called(metric))
    axis.margins(x=0.1, y=0.1)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def _axes(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches, and its panels."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **more).flat)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _scale(metric: str) -> float:
    return 100 if share(metric) else 1


def _number(trial: Trial) -> int:
    return int(trial.name) if trial.name.isdecimal() else 0


def _along(domain: Any, values: Sequence[Any]) -> tuple[Callable[[Any], float], list[tuple[float, str]]]:
    """(value -> its height from 0 to 1, the ticks as heights with texts) of a key: listed values evenly, ranges by their own scale."""
    known = _sorted(listed(domain))
    if known:
        place = _place(known)
        return (lambda value: place(value) / max(len(known) - 1, 1)), [
            (at / max(len(known) - 1, 1), str(value)) for at, value in enumerate(known)
        ]
    low, high, log = float(domain.lower), float(domain.upper), logarithmic(domain)

    def height(value: float) -> float:
        return (math.log(value / low) / math.log(high / low)) if log else (value - low) / (high - low)

    marks = [low * (high / low) ** (i / 4) for i in range(5)] if log else _even(low, high)
    return height, [(height(at), f"{at:.2g}") for at in marks]


def _place(known: Sequence[Any]) -> Callable[[Any], float]:
    """Where a value stands among the listed ones; between two of them where it is none, as what a population has come to."""
    numbers = all(isinstance(value, int | float) for value in known)

    def place(value: Any) -> float:
        if value in known:
            return float(known.index(value))
        return float(np.interp(value, known, range(len(known)))) if numbers and isinstance(value, int | float) else math.nan

    return place


def _sorted(values: Sequence[Any] | None) -> list[Any]:
    """Listed values as an axis has them: numbers by their size. None of a range."""
    values = list(values or ())
    return sorted(values) if all(isinstance(value, int | float) for value in values) else values


def _even(low: float, high: float) -> list[float]:
    return [low + (high - low) * i / 4 for i in range(5)] if high > low else [low]
