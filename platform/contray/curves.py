"""The training curves of a run as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CURVES = {
    "loss": "loss",
    "contrast_top1": "positive is the nearest",
    "knn_val_top1": "held-out k-NN top-1",
    "lr": "learning rate",
}


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
        axis.plot(steps, values, marker="o" if len(steps) < 15 else "", ms=4)
        axis.set_title(CURVES[name], fontsize=10)
        axis.set_xlabel("optimiser steps")
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    figure.savefig(out, dpi=120)
    plt.close(figure)
    return out
