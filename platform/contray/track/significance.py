"""Whether two configurations differ by more than their seeds do: t-tests, in numbers and in words.

Welch 1947 (https://doi.org/10.1093/biomet/34.1-2.28) for seeds of their own, Student's paired test for common ones, Holm's correction
(1979, https://www.jstor.org/stable/4615733) over all pairs of rows, for the best of them is picked by what it came to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from statistics import mean, variance

LEVEL = 0.05
DUST = 1e-9  # what is left of equal numbers after sums
PAIRED = 3  # common seeds from which pairs are worth their degrees of freedom


@dataclass(frozen=True)
class Difference:
    """How far a row's mean lies below the best one's. low, high: its 95 % interval by itself, p: corrected for all rows; None where one seed is all.

    row, best: numbers of rows, from 1; test: "paired", "Welch" or empty; words: what to make of it.
    """

    row: int
    best: int
    metric: str
    mean: float
    low: float | None
    high: float | None
    p: float | None
    test: str
    words: str


def against(values: Sequence[Mapping[str, float]], metric: str, finest: float = 0.0) -> list[Difference]:
    """Every row beside the one of the highest mean; values: of each row the metric by seed, empty where it was not measured.

    finest: the least step of the metric, of shares one test image; 0 where it is not known. Few seeds may differ by less by chance.
    """
    known = [place for place, row in enumerate(values) if row]
    if len(known) < 2:
        return []
    best = max(known, key=lambda place: mean(values[place].values()))
    found = [_difference(values[best], values[place], best + 1, place + 1, metric, finest) for place in known if place != best]
    return [replace(each, words=_words(each, values)) for each in _holm(found, math.comb(len(known), 2))]


def _difference(
    best: Mapping[str, float], other: Mapping[str, float], number: int, row: int, metric: str, finest: float
) -> Difference:
    gap = mean(best.values()) - mean(other.values())
    common = sorted(best.keys() & other.keys())
    if min(len(best), len(other)) < 2:
        return Difference(row, number, metric, gap, None, None, None, "", "")
    if best.keys() == other.keys() and len(common) >= PAIRED:
        test, freedom = "paired", len(common) - 1.0
        error = math.sqrt(max(variance([best[seed] - other[seed] for seed in common]), finest**2) / len(common))
    else:
        parts = [max(variance(each.values()), finest**2 / 2) / len(each) for each in (best, other)]
        test, error = "Welch", math.sqrt(sum(parts))
        below = sum(part**2 / (len(each) - 1) for part, each in zip(parts, (best, other), strict=True))
        freedom = sum(parts) ** 2 / below if below else float(len(best) + len(other) - 2)
    special = import_module("scipy.special")  # by name: without types, a type checker would read all of it for long
    reach = float(special.stdtrit(freedom, 1 - LEVEL / 2)) * error
    signs = 2.0 ** (1 - min(len(best), len(other))) if gap else 1.0  # the chance that as many are on one side
    p = 2 * float(special.stdtr(freedom, -gap / error)) if error > DUST else signs
    return Difference(row, number, metric, gap, gap - reach, gap + reach, p, test, "")


def _holm(found: Sequence[Difference], pairs: int) -> list[Difference]:
    """With the p of each raised so that one error among all pairs, of which these are some, is as rare as LEVEL says."""
    order = sorted((i for i, each in enumerate(found) if each.p is not None), key=lambda i: found[i].p or 0.0)
    made, least = list(found), 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (pairs - place) * (found[i].p or 0.0)))
        made[i] = replace(found[i], p=least)
    return made


def _words(each: Difference, values: Sequence[Mapping[str, float]]) -> str:
    if each.p is None:
        single = [f"#{number}" for number in (each.best, each.row) if len(values[number - 1]) < 2]
        return f"one seed of {' and '.join(single)}: no telling"
    return f"#{each.best} is better" if each.p < LEVEL else "no telling: chance may give as much"
