"""What a study came to: every number of every run, the verdict, and how both are shown and kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..tables import Shown, Table
from .claims import Values, factor, spoken
from .form import Arm, Study, arm_of
from .verdict import CONTRADICTED, DUST, Verdict, half


@dataclass(frozen=True, repr=False)
class StudyResult(Shown):
    """A study as it ended. It prints as its table, its claims and its verdict.

    values: of each arm and seed the metrics of its run, an arm without any among them; notes: why an arm's seed has none; runs: MLflow's ids;
    minutes: that this call took; run_id, url: of the study's own run; left: runs that are still to be made.
    """

    study: Study
    scale: str
    values: Values
    notes: Mapping[Arm, Mapping[int, str]]
    verdict: Verdict
    runs: Mapping[Arm, Mapping[int, str]]
    minutes: float
    uri: str = ""
    run_id: str = ""
    url: str = ""
    picture: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # dotted keys that the caller gave all arms
    left: int = 0
    commit: str = ""
    interrupted: bool = False

    def seeds_of(self, arm: Arm, metric: str = "") -> dict[int, float]:
        """The numbers of an arm, by seed: of METRIC, or another one."""
        found = ((seed, each.get(metric or self.study.metric)) for seed, each in self.values[arm].items())
        return {seed: value for seed, value in found if value is not None}

    def as_json(self) -> dict[str, Any]:
        """Plain values, as study.json and records/ keep them."""
        arms = [
            {
                "arm": arm,
                "seeds": {
                    str(seed): {
                        "run_id": self.runs.get(arm, {}).get(seed, ""),
                        "metrics": dict(each),
                        "note": self.notes.get(arm, {}).get(seed, ""),
                    }
                    for seed, each in self.values[arm].items()
                },
            }
            for arm in self.values
        ]
        own = {
            name: getattr(self, name) for name in ("scale", "minutes", "uri", "run_id", "url", "left", "commit", "interrupted")
        }
        own |= {"settings": dict(self.settings), "verdict": dataclasses.asdict(self.verdict), "picture": str(self.picture or "")}
        return {"study": self.study.as_json(), **own, "arms": arms}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> StudyResult:
        """What `as_json` gave, read back."""
        arms = {arm_of(each["arm"]): {int(seed): of for seed, of in each["seeds"].items()} for each in facts["arms"]}
        own = {
            name: facts[name]
            for name in ("scale", "minutes", "uri", "run_id", "url", "left", "commit", "settings", "interrupted")
        }
        return cls(
            study=Study.from_json(facts["study"]),
            values={arm: {seed: of["metrics"] for seed, of in each.items()} for arm, each in arms.items()},
            notes={arm: {seed: of["note"] for seed, of in each.items() if of["note"]} for arm, each in arms.items()},
            runs={arm: {seed: of["run_id"] for seed, of in each.items() if of["run_id"]} for arm, each in arms.items()},
            verdict=Verdict.from_json(facts["verdict"]),
            picture=Path(facts["picture"]) if facts["picture"] else None,
            **own,
        )  # fmt: skip

    @property
    def tells(self) -> bool:
        """Whether there is an estimate of any claim."""
        return any(each.estimate is not None for each in self.verdict.claims)

    @property
    def table(self) -> Table:
        """Ours beside theirs: of each arm the means over seeds, with half of the interval that holds it in 95 of 100 such studies, and the paper's number."""
        study, metrics = self.study, self.study.metrics
        heads = [f"{name} {'%' if factor(name) == 100 else ''}".rstrip() for name in metrics]
        theirs = [f"paper: {study.paper_metric}".rstrip(": ")] if study.paper else []
        table = Table(f"{study.name} at scale {self.scale}: {study.claim}", "arm", *heads, "seeds", *theirs)
        for arm in self.values:
            cells = [self._cell(arm, name) for name in metrics]
            paper = [f"{study.paper[arm]:g}" if arm in study.paper else "-"] if study.paper else []
            table.add(spoken(arm), *cells, str(len(self.seeds_of(arm))), *paper)
        table.caption = "mean over seeds ± half of its 95 % interval"
        return table

    def _cell(self, arm: Arm, metric: str) -> str:
        known = [factor(metric) * value for value in self.seeds_of(arm, metric).values()]
        mean, half = interval(known)
        return f"{number(mean)} ± {number(half)}" if len(known) > 1 else number(mean)

    @property
    def claims(self) -> Table:
        """Each claim with its estimate, interval, p (of its opposite, by Holm, where that is what holds) and word."""
        table = Table("", "claim", "estimate", "95 % interval", "p", "word", left=(0, 4))
        for each in self.verdict.claims:
            between = f"{number(each.low)} to {number(each.high)}" if each.low is not None and each.high is not None else "-"
            p = each.p_against if each.word == CONTRADICTED else each.p
            told = f"{number(each.estimate)} {each.unit}".rstrip()
            table.add(each.words, told, between, f"{p:.2g}" if p is not None else "-", each.word)
        return table

    def markdown(self) -> str:
        """The tables and the verdict, without the picture."""
        parts = (each for each in self.shown if not isinstance(each, Path))
        return "\n\n".join(each.markdown() if isinstance(each, Table) else each for each in parts)

    @property
    def shown(self) -> Sequence[Table | str | Path]:
        noted = [f"{spoken(arm)}, seed {seed}: {words}" for arm, seeds in self.notes.items() for seed, words in seeds.items()]
        left = [f"{self.left} runs are still to be made: the same command goes on with them"] if self.left else []
        words = [f"at scale {self.scale} {self.verdict.text}", *([self.study.small] if self.study.small else [])]
        ends = [f"{self.minutes:.1f} min; {self.url}"]
        return [self.table, self.claims, *noted, *left, *words, *ends, *([self.picture] if self.picture else [])]


@dataclass(repr=False)
class Summary(Shown):
    """All studies as a call left them. failed: why a study could not be run; not_reached: those that no time was left for."""

    results: list[StudyResult] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    not_reached: list[str] = field(default_factory=list)
    minutes: float = 0.0

    @property
    def told(self) -> set[str]:
        """The studies of which there is something to say."""
        return {*self.failed, *(each.study.name for each in self.results)}

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return any(each.interrupted for each in self.results)

    @property
    def shown(self) -> Sequence[Table | str]:
        table = Table("studies", "study", "claim", "verdict", "seeds", "left", "min", left=(0, 1, 2))
        for each in self.results:
            seeds = max((len(seeds) for seeds in each.values.values()), default=0)
            table.add(each.study.name, each.study.claim, each.verdict.word, str(seeds), str(each.left), f"{each.minutes:.1f}")
        why = "stopped before" if self.interrupted else "no time was left for"
        late = f"{why} {', '.join(self.not_reached)}: the same command goes on with them" if self.not_reached else ""
        words = [*self.failed.values(), *filter(None, [late])]
        return [table, *words, f"{self.minutes:.1f} min"]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of some seeds and half of its 95 % interval by Student's t; not a number below two."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    return mean(values), half(stdev(values) / math.sqrt(len(values)), len(values))


def number(value: float | None) -> str:
    """A number as tables have it: a decimal from 10 on, three digits below."""
    if not _known(value):
        return "-"
    assert value is not None
    if abs(value) < DUST:  # rounding's
        return "0"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
