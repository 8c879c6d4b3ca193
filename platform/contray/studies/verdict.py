"""What seeds say of a study's claims: Student's t over them, one-sided; supported, contradicted or undecided.

All claims must hold for "supported", which needs no correction (an intersection-union test); the opposite of any is enough for "contradicted", so
that p of the opposites are raised by Holm's (1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from statistics import mean, stdev
from typing import Any

from .claims import Form, Part, Values, diverged, seeds, spoken, untrained

LEVEL = 0.05
LEAST = 3  # seeds
DUST = 1e-9  # what rounding makes of no difference
FINEST = {"memory_gb": 0.01}  # steps below which numbers of a metric are the same
SUPPORTED, CONTRADICTED, UNDECIDED = WORDS = ("supported", "contradicted", "undecided")


@dataclass(frozen=True)
class Judged:
    """A claim, by the weakest of what it asserts. low, high: the 95 % interval of the estimate by itself; p, p_against: of the claim, and of its opposite after Holm.

    unit: points, tau, or empty for the metric's own; seeds: that had all it needs; equal: all gave the same number. None where there are too few
    of them, and for the interval of equal numbers whose step is not known.
    """

    words: str
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    p_against: float | None
    word: str
    unit: str = ""
    seeds: int = 0
    equal: bool = False

    @property
    def shown(self) -> str:
        """The estimate with its unit and interval."""
        if self.estimate is None:
            return "-"
        form = "+.1f" if self.unit == "points" else "+.3g"
        interval = "" if self.low is None or self.high is None else f" [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.estimate:{form}}" + (f" {self.unit}" if self.unit else "") + interval

    @property
    def text(self) -> str:
        """In one line."""
        if self.estimate is None:
            return f"{self.words}: no seed has what it takes"
        numbers = f"{self.words}: {self.shown}"
        if self.p is None or self.p_against is None:
            return f"{numbers}, {_few(self.seeds)}"
        against, p = (", of the opposite", self.p_against) if self.word == CONTRADICTED else ("", self.p)
        return (
            f"{numbers}, p {'< 0.001' if p < 0.001 else f'= {p:.2g}'}{against}, {'equal in all ' * self.equal}{self.seeds} seeds"
        )


@dataclass(frozen=True)
class Verdict:
    """supported: every claim is; contradicted: one is; else undecided. text: the word, and each claim with its numbers."""

    word: str
    claims: tuple[Judged, ...]
    text: str

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Verdict:
        """As it was written."""
        return cls(tree["word"], tuple(Judged(**each) for each in tree["claims"]), tree["text"])


def judge(expect: Sequence[Form], values: Values, metric: str) -> Verdict:
    """The verdict over all claims; values: of each arm (in the study's order) and seed the metrics, None for a run that diverged."""
    found = [
        _judged([replace(part, finest=part.finest or _finest(part, form, values, metric)) for part in form.parts(values, metric)])
        for form in expect
    ]
    against = _holm([each.p_against for each in found])
    found = [replace(each, p_against=q, word=_word(each.p, q)) for each, q in zip(found, against, strict=True)]
    words = {each.word for each in found}
    word = CONTRADICTED if CONTRADICTED in words else SUPPORTED if words == {SUPPORTED} else UNDECIDED
    few = f" ({_few(len(seeds(values)))})" if len(seeds(values)) < LEAST else ""
    return Verdict(word, tuple(found), f"{word}{few}: " + "; ".join([*(each.text for each in found), *_lost(values, metric)]))


def lasting(verdicts: Sequence[Verdict]) -> int:
    """How many of these, supported or contradicted, stay where so many are looked for at once: Benjamini & Hochberg 1995, at LEVEL."""
    found = sorted(min(1.0, 2 * min(_largest(each), _least(each))) for each in verdicts)
    return max((place for place, p in enumerate(found, start=1) if p <= LEVEL * place / len(found)), default=0)


def _largest(verdict: Verdict) -> float:
    return max((1.0 if each.p is None else each.p for each in verdict.claims), default=1.0)


def _least(verdict: Verdict) -> float:
    return min((1.0 if each.p_against is None else each.p_against for each in verdict.claims), default=1.0)


def _lost(values: Values, metric: str) -> Iterator[str]:
    """Arms whose runs diverged, and what contrasts make of them."""
    for arm, runs in values.items():
        lost = [seed for seed, row in runs.items() if diverged(row, metric)]
        if lost:
            known = all(untrained(values, seed, metric) is not None for seed in lost)
            as_what = "counts as untrained there" if known else "is left out there"
            yield f"{spoken(arm)} diverged in {len(lost)} of {len(runs)} seeds and {as_what}"


def _few(count: int) -> str:
    return f"{count} seed{'s decide' if count > 1 else ' decides'} nothing" if count else "no seed yet"


def _word(p: float | None, against: float | None) -> str:
    if p is not None and p < LEVEL:
        return SUPPORTED
    return CONTRADICTED if against is not None and against < LEVEL else UNDECIDED


def _judged(parts: Sequence[Part]) -> Judged:
    """All parts must hold: the claim's p is the largest of theirs (intersection-union); its opposite needs one alone: Bonferroni."""
    tested = [(part, *_tested(part)) for part in parts]
    known = all(p is not None for _, p, _ in tested)
    p = max(p or 0.0 for _, p, _ in tested) if known else None
    against = min(1.0, len(parts) * min(q or 0.0 for _, _, q in tested)) if known else None
    refuted = known and against is not None and against < LEVEL
    shown = min(tested, key=lambda each: each[2] or 0.0)[0] if refuted else max(tested, key=lambda each: each[1] or 0.0)[0]
    low, high = _interval(shown)
    estimate = mean(shown.numbers) if shown.numbers else None
    equal = len(shown.numbers) >= LEAST and stdev(shown.numbers) < DUST
    return Judged(shown.words, estimate, low, high, p, against, "", shown.unit, len(shown.numbers), equal)


def _tested(part: Part) -> tuple[float | None, float | None]:
    """p of the part and of its opposite; none where there are too few seeds."""
    if len(part.numbers) < LEAST:
        return None, None
    gap = part.side * (mean(part.numbers) - part.threshold)
    error = _error(part)
    if abs(gap) < DUST:
        return 1.0, 1.0
    if error < DUST:
        chance = 2.0 ** -len(part.numbers)  # that so many signs are the same
        p = chance if gap > 0 else 1 - chance
    else:
        p = float(import_module("scipy.special").stdtr(len(part.numbers) - 1, -gap / error))
    return max(p, part.least), max(1 - p, part.least_against)


def _finest(part: Part, form: Form, values: Values, metric: str) -> float:
    """The least step of a part's numbers: of shares one image of the test set; 0 where it is not known."""
    if part.unit == "points":
        images = [count for each in values.values() for row in each.values() if (count := row.get("test_images"))]
        return 100 / min(images) if images else 0.0
    return min(FINEST.get(name, 0.0) for name in form.metrics or [metric])


def _error(part: Part) -> float:
    """Standard error of the mean. Few seeds may differ by less than a step by chance: their spread counts as one step at least."""
    return max(stdev(part.numbers), part.finest) / math.sqrt(len(part.numbers))


def _interval(part: Part) -> tuple[float | None, float | None]:
    if len(part.numbers) < 2 or (error := _error(part)) < DUST:
        return None, None
    reach = half(error, len(part.numbers))
    return mean(part.numbers) - reach, mean(part.numbers) + reach


def half(error: float, count: int) -> float:
    """Half of the 95 % interval of a mean of so many numbers with this standard error, by Student's t."""
    return float(import_module("scipy.special").stdtrit(count - 1, 1 - LEVEL / 2)) * error


def _holm(found: Sequence[float | None]) -> list[float | None]:
    """Each p raised so that one error among all of them is as rare as LEVEL says; one that is not known counts as the largest."""
    order = sorted(range(len(found)), key=lambda i: 1.0 if found[i] is None else found[i] or 0.0)
    made, least = list(found), 0.0
    for place, i in enumerate(order):
        p = found[i]
        if p is not None:
            made[i] = least = max(least, min(1.0, (len(order) - place) * p))
    return made
