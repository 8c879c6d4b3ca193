"""How often a study's verdict errs: simulated studies with nothing planted and with effects of 1, 2 and 4 standard deviations over seeds.

    python tests/benchmarks/verdicts.py

Values of arms vary by one point over seeds, independently, and are read on 360 test images. An effect of 0 lies on the border of the claim:
no difference; for `Peak, levelling off` a curve that rises by 4 points to a level (the effect: its last arm falls again); for `Same` the
whole margin; for `Collapse` just the margin above the untrained encoder; for `Agrees` two rankings that have nothing to do with each other.
Each unit of effect is one point into the claim. The last columns are of who adds seeds until there is a verdict: after 3, 5, 8 and 12.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable

from contray.studies import Above, Agrees, Collapse, Order, Peak, Same
from contray.studies.claims import Form
from contray.studies.verdict import UNDECIDED, WORDS, judge
from contray.tables import Table

IMAGES = 360
EFFECTS, SEEDS, STAGES = (0, 1, 2, 4), (3, 5), (3, 5, 8, 12)
MARGIN = 4
Means = dict[str, tuple[float, float]]  # of each arm the metric and another measure, in points

PLANTED: dict[str, tuple[list[Form], Callable[[float, random.Random], Means]]] = {
    "Above": ([Above("b", "a")], lambda effect, draw: {"a": (50, 0), "b": (50 + effect, 0)}),
    "three Above": (
        [Above("b", "a"), Above("c", "a"), Above("d", "a")],
        lambda effect, draw: {"a": (50, 0), **dict.fromkeys("bcd", (50 + effect, 0))},
    ),
    "Order of four": ([Order()], lambda effect, draw: {arm: (50 + effect * rank / 3, 0) for rank, arm in enumerate("abcd")}),
    "Peak of five": (
        [Peak()],
        lambda effect, draw: {arm: (50 + effect * (1 - (rank / 2 - 1) ** 2), 0) for rank, arm in enumerate("abcde")},
    ),
    "Peak, levelling off": (
        [Peak()],
        lambda effect, draw: {arm: (50 + 4 * (rank > 0) - effect * (rank > 3), 0) for rank, arm in enumerate("abcde")},
    ),
    "Peak of eight, levelling off": (
        [Peak()],
        lambda effect, draw: {arm: (50 + 4 * (rank > 0) - effect * (rank > 6), 0) for rank, arm in enumerate("abcdefgh")},
    ),
    "Same": ([Same("a", "b", within=MARGIN)], lambda effect, draw: {"a": (50, 0), "b": (50 + MARGIN - effect, 0)}),
    "Collapse": ([Collapse("a", "b", within=MARGIN)], lambda effect, draw: {"a": (20 + MARGIN - effect, 0), "b": (50, 0)}),
    "Agrees of six": ([Agrees("other")], lambda effect, draw: {arm: _ranked(effect, draw) for arm in "abcdef"}),
}


def _ranked(effect: float, draw: random.Random) -> tuple[float, float]:
    """An arm's place among arms that differ widely; the effect is what both measures share of it."""
    shared = draw.gauss(0, 1)
    return 50 + (effect or 4) * (shared if effect else draw.gauss(0, 1)), 50 + (effect or 4) * shared


def study(means: Means, seeds: int, draw: random.Random) -> dict[str, dict[int, dict[str, float]]]:
    """Values as a study has them."""

    def read(points: float) -> float:
        return round(points / 100 * IMAGES) / IMAGES

    return {
        arm: {
            seed: {
                "linear_top1": read(metric + draw.gauss(0, 1)),
                "other": other + draw.gauss(0, 1),
                "random_linear_top1": read(20),
                "test_images": IMAGES,
            }
            for seed in range(seeds)
        }
        for arm, (metric, other) in means.items()
    }


def rates(name: str, effect: float, seeds: int, studies: int, seed: int = 0) -> dict[str, float]:
    """How often each word is the verdict."""
    expect, means = PLANTED[name]
    draw = random.Random(f"{seed} {name} {effect} {seeds}")
    words = Counter(judge(expect, study(means(effect, draw), seeds, draw), "linear_top1").word for _ in range(studies))
    return {word: words[word] / studies for word in WORDS}


def until_decided(name: str, effect: float, studies: int, seed: int = 0) -> dict[str, float]:
    """How often each word is the verdict if seeds are added at STAGES until it is another than undecided."""
    expect, means = PLANTED[name]
    draw = random.Random(f"{seed} {name} {effect} until decided")

    def word() -> str:
        whole = study(means(effect, draw), STAGES[-1], draw)
        made = ({arm: dict([*each.items()][:seeds]) for arm, each in whole.items()} for seeds in STAGES)
        words = (judge(expect, values, "linear_top1").word for values in made)
        return next((each for each in words if each != UNDECIDED), UNDECIDED)

    words = Counter(word() for _ in range(studies))
    return {word: words[word] / studies for word in WORDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="of each form, effect and number of seeds")
    options = parser.parse_args()
    ways = [*(f"{seeds} seeds" for seeds in SEEDS), "until decided"]
    columns = [f"{word}, {way}" for way in ways for word in WORDS[:2]]
    table = Table(f"% of {options.studies:,} simulated studies", "claim", "effect", *columns)
    for name in PLANTED:
        for effect in EFFECTS:
            found = [rates(name, effect, seeds, options.studies) for seeds in SEEDS]
            found.append(until_decided(name, effect, options.studies))
            table.add(name, str(effect), *(f"{100 * each[word]:.1f}" for each in found for word in WORDS[:2]))
        table.divide()
    print(table)


if __name__ == "__main__":
    main()
