"""Accuracy against cost: which trials no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .outcome import Trial
from .ranking import COSTS


def front(trials: Sequence[Trial], metric: str, against: str) -> list[str]:
    """The names of the finished trials on the Pareto front, the best in `metric` first: no other trial is as good in both and better in one."""
    sign = -1 if COSTS[against][0] == "min" else 1
    points = {
        each.name: (each.metrics[metric], sign * each.metrics[against])
        for each in trials
        if each.status == "finished" and all(math.isfinite(each.metrics.get(name, math.nan)) for name in (metric, against))
    }

    def beaten(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points.values())

    return sorted(
        (name for name, point in points.items() if not beaten(point)), key=lambda name: [-value for value in points[name]]
    )
