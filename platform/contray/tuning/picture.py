"""The metric against each searched key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .outcome import Trial
from .ranking import UNLABELLED, share


def draw(trials: Sequence[Trial], space: Mapping[str, Any], metric: str, online: str, path: Path) -> Path:
    """One panel for each key; finished trials as dots, stopped ones as crosses at their last online metric."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    from .domains import describe_domain

    keys = [key for key in space if key != "seed"]
    figure, axes = plt.subplots(
        1, len(keys), figsize=(max(3.6 * len(keys), 6.5), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    best, scale = trials[0].params if trials else {}, 100 if share(metric) else 1
    for axis, key in zip(axes[0], keys, strict=True):
        for ended, marker, name in (("finished", "o", metric), ("stopped", "x", online)):
            chosen = [trial for trial in trials if trial.status == ended and name in trial.metrics]
            if not chosen:
                continue
            axis.plot(
                [trial.params[key] for trial in chosen],
                [scale * trial.metrics[name] for trial in chosen],
                marker,
                label=f"{ended} ({name})",
                alpha=0.8,
            )
        if trials and trials[0].status == "finished":
            axis.plot(
                [best[key]], [scale * trials[0].metrics[metric]], "o", ms=13, mfc="none", mec="#D55E00", mew=1.8, label="best"
            )
        values = [trial.params[key] for trial in trials if key in trial.params]
        if values and all(isinstance(value, int) and value > 0 and math.log2(value).is_integer() for value in values):
            axis.set_xscale("log", base=2)
        elif "(log)" in describe_domain(space[key]):
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(key)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(
        "RankMe (effective rank)" if metric == UNLABELLED else "held-out top-1 [%]" if share(metric) else metric
    )
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
