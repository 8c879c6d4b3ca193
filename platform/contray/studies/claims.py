"""The forms of a claim. Each becomes parts: numbers, one for each seed, that lie on one side of a threshold if the claim holds.

An arm is named as the study names it; in its place may stand At, Minus or Mean. Accuracies are in points (per cent), all else in its own unit.
A run that diverged (None) has learned nothing: it counts as the untrained encoder of its seed, where the metric has one (random_METRIC).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from ..errors import UserError, nearest
from ..tables import SHARES
from .curves import best, dot, line, parabola

Values = Mapping[Any, Mapping[int, Mapping[str, float | None]]]  # of each arm and seed the metrics
LEAST = 4  # arms whose ranking says something: of three, one of six is right by chance


@dataclass(frozen=True)
class Part:
    """What one test tests: that `numbers` (one a seed) lie above `threshold` in the mean, or with side -1 below.

    least, least_against: p values of another test of the same, which must be as low as well. finest: the least step of the numbers, 0 if unknown.
    """

    words: str
    numbers: Sequence[float]
    threshold: float = 0.0
    side: int = 1
    unit: str = ""
    least: float = 0.0
    least_against: float = 0.0
    finest: float = 0.0


@dataclass(frozen=True)
class At:
    """An arm by another metric than the study's: At("simclr", "h_linear_top1")."""

    arm: Any
    metric: str


@dataclass(frozen=True)
class Minus:
    """What one arm has over another, in an arm's place: a gain beside another gain."""

    left: Any
    right: Any


@dataclass(frozen=True, init=False)
class Mean:
    """The mean of several arms, in an arm's place."""

    arms: tuple[Any, ...]

    def __init__(self, *arms: Any) -> None:
        object.__setattr__(self, "arms", arms)


def factor(metric: str) -> int:
    """What a metric is shown times: shares in per cent, all else as it is."""
    return 100 if metric.endswith(SHARES) else 1


def within(arm: Any) -> Iterator[Any]:
    """What stands in an arm's place, and all that is in it."""
    yield arm
    inner = (arm.arm,) if isinstance(arm, At) else (arm.left, arm.right) if isinstance(arm, Minus) else ()
    for each in arm.arms if isinstance(arm, Mean) else inner:
        yield from within(each)


def _itself(arm: Any, metric: str) -> Any:
    """The arm, where its place is taken by the same arm's own metric."""
    return arm.arm if isinstance(arm, At) and arm.metric == metric else arm


def named(arm: Any) -> list[Any]:
    """The study's arms that stand in an arm's place."""
    return [each for each in within(arm) if not isinstance(each, (At, Minus, Mean))]


def told(arm: Any) -> list[str]:
    """The metrics that stand in an arm's place; none: the study's."""
    return [each.metric for each in within(arm) if isinstance(each, At)]


def spoken(arm: Any) -> str:
    """An arm in words."""
    if isinstance(arm, At):
        return f"{spoken(arm.arm)} ({arm.metric})"
    if isinstance(arm, Minus):
        return f"({spoken(arm.left)} less {spoken(arm.right)})"
    if isinstance(arm, Mean):
        return f"the mean of {', '.join(map(spoken, arm.arms))}"
    return " and ".join(map(str, arm)) if isinstance(arm, tuple) else str(arm)


def number(values: Values, arm: Any, seed: int, metric: str) -> float | None:
    """The arm's number of this seed, of a run that diverged the untrained encoder's; None where there is none."""
    if isinstance(arm, At):
        return number(values, arm.arm, seed, arm.metric)
    if isinstance(arm, (Minus, Mean)):
        few = [number(values, each, seed, metric) for each in ((arm.left, arm.right) if isinstance(arm, Minus) else arm.arms)]
        known = [each for each in few if each is not None]
        if len(known) < len(few):
            return None
        return known[0] - known[1] if isinstance(arm, Minus) else mean(known)
    row = values.get(arm, {}).get(seed, {})
    value = untrained(values, seed, metric) if diverged(row, metric) else row.get(metric)
    return None if value is None or not math.isfinite(value) else factor(metric) * value


def diverged(row: Mapping[str, float | None], metric: str) -> bool:
    """Whether a run ended without a number of what it is told by because it diverged: all that is kept of it then is that there is none.

    One further metric that is no number, where others are, is that metric's matter: the seed is left out of what is told by it.
    """
    value = row.get(metric, 0.0)
    others = [
        each for name, each in row.items() if name != metric and not name.startswith("random_") and not name.endswith("_images")
    ]
    lost = value is None or not math.isfinite(value)
    return bool(row) and (all(each is None for each in row.values()) or (lost and not any(map(_real, others))))


def untrained(values: Values, seed: int, metric: str) -> float | None:
    """What untrained encoders of a seed have, in the mean over the arms; None where none tells."""
    found = (each.get(seed, {}).get(f"random_{metric}") for each in values.values())
    return mean(known) if (known := [each for each in found if each is not None and math.isfinite(each)]) else None


def rows(values: Values, arms: Sequence[Any], metric: str) -> list[list[float]]:
    """Of each seed that has them all, the numbers of these arms."""
    found = ([number(values, arm, seed, metric) for arm in arms] for seed in seeds(values))
    return [[each for each in row if each is not None] for row in found if None not in row]


def seeds(values: Values) -> list[int]:
    """All seeds that any arm has."""
    return sorted({seed for each in values.values() for seed in each})


def _real(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)


class Form:
    """A claim about arms. metric: another than the study's decisive one."""

    metric: str

    @property
    def named(self) -> tuple[Any, ...]:
        """What it names of arms; none: all, in the study's order."""
        return ()

    @property
    def metrics(self) -> list[str]:
        """What it names of metrics, besides the study's."""
        return [name for name in dict.fromkeys([self.metric, *(one for arm in self.named for one in told(arm))]) if name]

    def check(self, arms: Sequence[Any], metric: str = "") -> None:
        """Raises UserError where it names an arm that the study has not, one beside itself, or too few for what it claims, or is of wrong numbers.

        metric: the study's own.
        """

        def refuse(words: str) -> UserError:
            return UserError(f"EXPECT: {type(self).__name__}: {words}")

        for name, least in (("by", -math.inf), ("within", 0.0)):
            number = getattr(self, name, None)
            if number is not None and not (_real(number) and number > least):
                raise refuse(f"{name}: got {number!r}, must be a number" + (" above 0" if least == 0 else ""))
        for name in (self.metric, getattr(self, "measure", ""), *(one for arm in self.named for one in told(arm))):
            if not isinstance(name, str):
                raise refuse(f"got {name!r} for a metric, must be its name")
        own = self.metric or metric
        plain = [_itself(each, own) for each in self.named]
        for each in (one for arm in self.named for one in within(arm)):
            if isinstance(each, Mean) and not each.arms:
                raise refuse("Mean() is of no arm; name those whose mean is meant")
            if isinstance(each, Minus) and _itself(each.left, own) == _itself(each.right, own):
                raise refuse(f"sets {spoken(each.left)} against itself")
            if not isinstance(each, (At, Minus, Mean)) and each not in arms:
                raise refuse(f"got arm {each!r}; {nearest(str(each), map(str, arms))}")
        for place, each in enumerate(self.named):
            if plain[place] in plain[:place]:
                raise refuse(f"sets {spoken(each)} against itself")

    def parts(self, values: Values, metric: str) -> Iterator[Part]:
        """What must hold for the claim to hold; values: of all arms, in the study's order."""
        raise NotImplementedError


def _unit(metric: str, *arms: Any) -> str:
    """What these arms' numbers are counted in."""
    return "points" if factor(next((one for arm in arms for one in told(arm)), metric)) == 100 else ""


@dataclass(frozen=True)
class Above(Form):
    """`better` is above `worse`, by more than `by`."""

    better: Any
    worse: Any
    by: float = 0.0
    metric: str = ""

    @property
    def named(self) -> tuple[Any, ...]:
        return self.better, self.worse

    def parts(self, values: Values, metric: str) -> Iterator[Part]:
        metric = self.metric or metric
        words = f"{spoken(self.better)} over {spoken(self.worse)}" + (f", by more than {self.by:g}" if self.by else "")
        yield Part(
            words, [left - right for left, right in rows(values, self.named, metric)], self.by, unit=_unit(metric, *self.named)
        )


@dataclass(frozen=True)
class Same(Form):
    """The two are less than `within` apart: two one-sided tests (Schuirmann 1987)."""

    left: Any
    right: Any
    within: float = 2.0
    metric: str = ""

    @property
    def named(self) -> tuple[Any, ...]:
        return self.left, self.right

    def parts(self, values: Values, metric: str) -> Iterator[Part]:
        metric = self.metric or metric
        gaps = [left - right for left, right in rows(values, self.named, metric)]
        words = f"{spoken(self.left)} within {self.within:g} of {spoken(self.right)}"
        yield Part(words, gaps, self.within, -1, _unit(metric, *self.named))
        yield Part(words, gaps, -self.within, 1, _unit(metric, *self.named))


@dataclass(frozen=True)
class Collapse(Form):
    """`arm` learns nothing where `healthy` learns: it ends at most `within` above its own untrained encoder (random_METRIC), the healthy one further.
    A healthy one that learns nothing contradicts no claim."""

    arm: Any
    healthy: Any
    within: float = 3.0
    metric: str = ""

    @property
    def named(self) -> tuple[Any, ...]:
        return self.arm, self.healthy

    def check(self, arms: Sequence[Any], metric: str = "") -> None:
        super().check(arms, metric)
        for each in self.named:
            if isinstance(each, (At, Minus, Mean)):
                raise UserError(
                    f"EXPECT: Collapse: {spoken(each)} has no untrained encoder; name an arm, and the metric by metric="
                )

    def parts(self, values: Values, metric: str) -> Iterator[Part]:
        metric = self.metric or metric
        claim = f"{spoken(self.arm)} collapses, {spoken(self.healthy)} does not"
        for arm, side, words, against in ((self.arm, -1, "at most", 0.0), (self.healthy, 1, "more than", 1.0)):
            words = f"{claim}: {spoken(arm)} {words} {self.within:g} over its untrained encoder"
            yield Part(words, [*self._gains(values, arm, metric)], self.within, side, _unit(metric), least_against=against)

    def _gains(self, values: Values, arm: Any, metric: str) -> Iterator[float]:
        for seed in seeds(values):
            lost = diverged(values.get(arm, {}).get(seed, {}), metric)
            trained, before = (number(values, arm, seed, name) for name in (metric, f"random_{metric}"))
            if lost and arm == self.arm:
                yield 0.0
            elif not lost and trained is not None and before is not None:
                yield trained - before


class _Several(Form):
    arms: tuple[Any, ...]
    least = 2

    def __init__(self, *arms: Any, metric: str = "") -> None:
        object.__setattr__(self, "arms", arms)
        object.__setattr__(self, "metric", metric)

    @property
    def named(self) -> tuple[Any, ...]:
        return self.arms

    def check(self, arms: Sequence[Any], metric: str = "") -> None:
        super().check(arms, metric)
        if len(self.arms or arms) < self.least:
            raise UserError(f"EXPECT: {type(self).__name__}: {len(self.arms or arms)} arms, and it takes {self.least}")

    def _rows(self, values: Values, metric: str) -> tuple[list[str], list[list[float]]]:
        arms = self.arms or tuple(values)
        return [spoken(arm) for arm in arms], rows(values, arms, metric)


@dataclass(frozen=True, init=False)
class Order(_Several):
    """The metric rises over the arms in the order given: the rise of a line fitted over their ranks, from the first to the last.

    A trend: a curve that rises and falls back a little has one too.
    """

    arms: tuple[Any, ...]
    metric: str

    def parts(self, values: Values, metric: str) -> Iterator[Part]:
        metric = self.metric or metric
        names, found = self._rows(values, metric)
        slope = line(len(names))
        words = f"a rising trend from {names[0]} to {names[-1]}"
        yield Part(words, [dot(slope, row) for row in found], unit=_unit(metric, *self.named))


@dataclass(frozen=True, init=False)
class Peak(_Several):
    """A reversed U: a parabola over the arms' ranks opens downwards, and an arm inside is above both ends.

    A parabola alone calls a curve that levels off a peak (Simonsohn 2018, https://doi.org/10.1177/2515245918805755). The arm inside is for each
    seed the best of the other seeds: that has no bias, but ties the seeds' numbers together, so that a curve that levels off passes for a peak
    somewhat more often than in 5 of 100 studies, the more so the more arms and seeds (docs/RESULTS.md has measured rates).
    """

    arms: tuple[Any, ...]
    metric: str
    least = 3

    def parts(self, values: Values, metric: str) -> Iterator[Part]:
        metric = self.metric or metric
        names, found = self._rows(values, metric)
        bend, unit = parabola(len(names)), _unit(metric, *self.named)
        inside = [best(found, seed) for seed in range(len(found))]
        between = f"a peak between {names[0]} and {names[-1]}"
        yield Part(f"{between}: a parabola's height over its ends", [-dot(bend, row) for row in found], unit=unit)
        for end, name in ((0, names[0]), (-1, names[-1])):
            gaps = [row[place] - row[end] for row, place in zip(found, inside, strict=True)]
            yield Part(f"{between}: the best inside over {name}", gaps, unit=unit)


@dataclass(frozen=True)
class Agrees(Form):
    """`measure` ranks the arms as the metric does: Kendall's tau, above 0 over seeds, and over the arms' means more than chance allows."""

    measure: str
    metric: str = ""
    rising: bool = True  # False: the less of the measure the better

    @property
    def metrics(self) -> list[str]:
        return [self.measure, *super().metrics]

    def check(self, arms: Sequence[Any], metric: str = "") -> None:
        super().check(arms, metric)
        if self.measure == (self.metric or metric):
            raise UserError(f"EXPECT: Agrees: sets {self.measure} against itself")
        if len(arms) < LEAST:
            raise UserError(f"EXPECT: Agrees: {len(arms)} arms, and their ranking says something from {LEAST} on")

    def parts(self, values: Values, metric: str) -> Iterator[Part]:
        from importlib import import_module

        tau = import_module("scipy.stats").kendalltau
        metric, sign = self.metric or metric, 1 if self.rising else -1
        both = [At(arm, name) for name in (self.measure, metric) for arm in values]
        pairs = [([sign * each for each in row[: len(values)]], row[len(values) :]) for row in rows(values, both, metric)]
        taus = [found for found in (float(tau(*pair)[0]) for pair in pairs) if math.isfinite(found)]
        means = [[mean(column) for column in zip(*side, strict=True)] for side in zip(*pairs, strict=True)]
        chance = [float(tau(*means, alternative=way)[1]) if taus else 1.0 for way in ("greater", "less")]
        words = f"{self.measure} ranks the arms as {metric} does" + ("" if self.rising else ", the less the better")
        swap = 4 / (len(values) * (len(values) - 1))  # what one pair of arms the other way round takes from tau
        yield Part(words, taus, unit="tau", least=chance[0], least_against=chance[1], finest=swap)
