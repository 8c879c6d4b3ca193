"""Weights that fit lines and parabolas over the ranks of a study's arms, and the arm that is best between the ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import mean


def dot(left: Iterable[float], right: Iterable[float]) -> float:
    return math.fsum(one * other for one, other in zip(left, right, strict=True))


def line(count: int) -> list[float]:
    """Weights that give the rise of a fitted line from the first to the last of so many equally spaced points."""
    places = [rank - (count - 1) / 2 for rank in range(count)]
    return [(count - 1) * place / dot(places, places) for place in places]


def parabola(count: int) -> list[float]:
    """Weights that give how far a fitted parabola's ends lie above its middle (the quadratic coefficient, in the unit of the values)."""
    places = [rank - (count - 1) / 2 for rank in range(count)]
    squares = [place**2 for place in places]
    free = [square - mean(squares) for square in squares]  # orthogonal to a constant and to a line
    return [squares[0] * each / dot(free, free) for each in free]


def best(found: Sequence[Sequence[float]], seed: int) -> int:
    """The arm inside that is best in the mean of all seeds but this one."""
    others = [row for place, row in enumerate(found) if place != seed] or found
    return max(range(1, len(found[0]) - 1), key=lambda arm: round(mean(row[arm] for row in others), 6))
