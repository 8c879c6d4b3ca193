"""How runs ended, as Python has it, and how it is shown: as a table of results with what it stands on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config import RunConfig
from ..evaluation import Measured
from ..evaluation._base import ENCODERS
from ..evaluation.common.protocol import report
from ..evaluation.common.tables import GEOMETRY, geometry_table, tables_of
from ..evaluation.common.verdict import over_seeds
from ..tables import Shown, Table

SCORED = ("knn_top1", "linear_top1", "knn_val_top1", "linear_val_top1")  # what the table of a run's verdict has
UNLABELLED = ("rankme", "random_rankme", "alignment", "uniformity")  # what the table of seeds has without labels
FEW = 5  # broken images that are named


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """How a run ended. `metrics` as MLflow has them; `checkpoint` its folder of checkpoints; `run_id` MLflow's; `config` what was run.

    It prints as the table of its results; functions that take a run take it.
    """

    name: str
    metrics: Mapping[str, float]
    run_id: str
    url: str
    checkpoint: str
    step: int
    finished: bool
    details: Mapping[str, Any] = field(default_factory=dict)
    config: RunConfig | None = None

    @property
    def verdict(self) -> str:
        """In words; empty where nothing was measured."""
        return str(self.details.get("verdict") or "")

    @property
    def findings(self) -> list[Table | str]:
        """The tables of what was measured, and what must be said about them."""
        if not self.finished:
            return [f"stopped at step {self.step} with a checkpoint; the same command goes on from there"]
        made: list[Table | str] = []
        about, tested = self.details.get("about", {}), self.details.get("tested", "")
        tabled = {prefix + score for prefix in ENCODERS for score in SCORED}
        if tabled & self.metrics.keys():
            knn_k = self.config.parts["eval.knn"].k if self.config else 0
            made.append(report({**self.metrics, **about}, knn_k=knn_k, tested_on=tested))
        elif GEOMETRY.keys() & self.metrics.keys():
            made.append(geometry_table(self.metrics))
        others = {
            name: value
            for name, value in self.metrics.items()
            if name not in tabled and name.removeprefix("random_") not in GEOMETRY
        }
        made += tables_of(Measured({**others, **about}, tested=tested)) if others else []
        made += [f"\n{self.verdict}\n"] if self.verdict else []
        for key, what in (("broken", "replaced a broken image"), ("broken_test", "left out a broken test image")):
            broken = self.details.get(key, {})
            made += [f"{what}: {name} ({reason})" for name, reason in list(broken.items())[:FEW]]
            made += [f"... and {len(broken) - FEW} more"] if len(broken) > FEW else []
        return made

    @property
    def trained(self) -> str:
        """How long it took, in a line."""
        rate, seconds = self.details.get("images_per_second"), self.details.get("seconds")
        pace = f", {rate:,.0f} images/s" if rate else ""  # none in a run that had only its verdict left
        return f"trained {self.step} steps" + (f" in {seconds:.0f} s{pace}" if seconds is not None else "")

    @property
    def shown(self) -> Sequence[Table | str]:
        return [*self.findings, f"{self.name}: {self.trained}" if self.finished else self.name]


class Results(Shown, tuple[Result, ...]):
    """What the seeds of one config came to, the first seed first; it prints as a table with their mean and standard deviation."""

    @property
    def finished(self) -> bool:
        """Whether all seeds came to their end."""
        return all(result.finished for result in self)

    @property
    def shown(self) -> Sequence[Table | str]:
        if not self.finished:
            return [f"{len(self) - 1} seeds are finished; the same command goes on with the others"]
        names = ["knn_top1", "linear_top1", "random_linear_top1", "pixels_linear_top1"]
        if not any(name in result.metrics for name in names for result in self):  # no labelled test images
            names = [name.replace("_top1", "_val_top1") for name in names]
        names, unit, scale = [name for name in names if any(name in result.metrics for result in self)], "in per cent", 100
        if not names:  # no labels
            names = [name for name in UNLABELLED if any(name in result.metrics for result in self)]
            unit, scale = "geometry of the features", 1
        table = Table(f"{self[0].name.rpartition('-s')[0]}: {len(self)} seeds, {unit}", "seed", *names)
        digits = 1 if scale == 100 else 3
        for result in self:
            values = [result.metrics.get(name) for name in names]
            table.add(
                result.name.rpartition("-s")[2], *("-" if value is None else f"{scale * value:.{digits}f}" for value in values)
            )
        table.divide()
        known = [[result.metrics[name] for result in self if name in result.metrics] for name in names]
        table.add("mean ± std", *(f"{scale * mean:.{digits}f} ± {scale * std:.{digits}f}" for mean, std in map(spread, known)))
        said = over_seeds([result.metrics for result in self])
        return [table, f"\n{said}\n"] if said else [table]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, 0 for a single value."""
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1))
