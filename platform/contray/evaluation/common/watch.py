"""What is measured while a method trains, and a collapse said in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ... import data
from ...config import RunConfig
from ...config.evaluations import load_evaluation, needing_labels
from ...errors import UserError
from ...methods._base import Method
from .._base import Measured, NotFinite
from .crew import Crew
from .features import OnlineSubject
from .run import measured, served_by

GEOMETRY = "geometry"  # the evaluation that the alarm hears


class Collapsed(UserError):
    """The features collapsed, and the run was to end then (train.on_collapse "stop")."""

    def __init__(self, step: int, words: str) -> None:
        super().__init__(f"step {step}: {words}; the run ends (train.on_collapse stop), its checkpoint is kept")
        self.step, self.words = step, words

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.words)


class Watch:
    """What is measured online, by the evaluations of eval.online that the data can serve; and the collapse alarm, which hears geometry. For rank 0.

    `state` is all that a checkpoint must hold of it. `news`: the alarm's words, after the evaluation that raised it alone.
    """

    def __init__(
        self,
        config: RunConfig,
        source: data.Source,
        device: torch.device,
        state: Mapping[str, Any] | None,
        crew: Crew | None = None,
    ) -> None:
        """state: a checkpoint's, or None at the start; crew: who encodes; None: this process alone."""
        served = served_by(source, config.eval.online)
        self.evaluations = {name: load_evaluation(name) for name in served}
        self.subject = OnlineSubject(config, device, source, crew)
        if needing_labels(served):
            self.subject.read()  # what is wrong with them is said before the first step
        self.alarm = Alarm(**state["watch"]) if state and state.get("watch") else Alarm()
        self.ends, self.news = config.train.on_collapse == "stop", ""
        self.last: dict[str, Measured] = {}  # of the last evaluation, by its name

    @property
    def state(self) -> dict[str, Any]:
        return dataclasses.asdict(self.alarm)

    def begin(self, method: Method) -> dict[str, float]:
        """The geometry that the alarm compares with. After the first step, not before it: batch norm must have seen a batch."""
        values = self._measure(method, [GEOMETRY] if GEOMETRY in self.evaluations else [])
        if values:
            self.alarm.note(values)
        return values

    def __call__(self, method: Method) -> dict[str, float]:
        """An evaluation's metrics."""
        values = self._measure(method, list(self.evaluations))
        self.news = self.alarm.hear(values) if GEOMETRY in self.evaluations else ""
        return values

    def without(self, final: Collection[str]) -> dict[str, float]:
        """The metrics of the last evaluation that those of `final` do not give."""
        return _merged(each for name, each in self.last.items() if name not in final)

    def _measure(self, method: Method, names: list[str]) -> dict[str, float]:
        self.subject.again(method)
        for name in names:
            file = self.evaluations[name]
            try:
                self.last[name] = measured(file, self.subject)
            except NotFinite:  # the loop ends by itself where weights are no numbers
                self.last[name] = Measured({**dict.fromkeys(file.metrics, math.nan), **self.subject.counts})
        return _merged(self.last[name] for name in names)

    @property
    def stops(self) -> bool:
        """Whether the run is to end at the next occasion."""
        return self.ends and bool(self.alarm.words)


def _merged(found: Iterable[Measured]) -> dict[str, float]:
    return {name: value for each in found for name, value in {**each, **each.about}.items()}


@dataclass
class Alarm:
    """Says when a method has collapsed: its embeddings look so at IN_A_ROW evaluations in a row.

    Either all are one: their spread, of the 1 / sqrt(E) of even ones, is below SPREAD (Chen & He 2021, https://arxiv.org/abs/2011.10566,
    §4.1) and their effective rank below RANK; healthy features may lie in as narrow a cone (MAE's do), but differ in many directions.
    Or they use few dimensions: their rank is below SHARE of what it can be (Jing et al. 2022, https://arxiv.org/abs/2110.09348); this is
    asked only where a projector's output is what the loss compares. Each counts only where training led there: to below half of the most
    that was seen in the run.
    """

    SPREAD, RANK, SHARE, IN_A_ROW = 0.1, 2.0, 0.1, 2

    std: float = 0.0  # the most that they have been
    rank: float = 0.0
    in_a_row: int = 0
    words: str = ""  # once it was raised

    def note(self, values: Mapping[str, float]) -> tuple[float, float, float]:
        """Keep the most; (spread, rank, share) of these values."""
        names = EMBEDDING if EMBEDDING[0] in values else FEATURE
        std, rank, share = (values[name] for name in names)
        self.std, self.rank = max(self.std, std), max(self.rank, rank)
        return std, rank, share

    def hear(self, values: Mapping[str, float]) -> str:
        """Take an evaluation in. What there is to say, once in a run; else nothing."""
        std, rank, share = self.note(values)
        one = std < self.SPREAD and std < self.std / 2 and rank < self.RANK
        few = share < self.SHARE and rank < self.rank / 2 and EMBEDDING[0] in values
        self.in_a_row = self.in_a_row + 1 if one or few else 0
        if self.words or self.in_a_row < self.IN_A_ROW:
            return ""
        what = (
            "collapse: all images have nearly the same features"
            if one
            else "dimensional collapse: the features use few dimensions"
        )
        self.words = (
            f"{what}; at {self.in_a_row} evaluations in a row, by now with a spread of {std:.3f} of evenly spread ones' (it was {self.std:.3f}) and "
            f"an effective rank of {rank:.1f} of {rank / share:.0f} (it was {self.rank:.1f}). What usually mends it: a lower optim.lr or "
            "optim.weight_decay, a longer warm-up, and in a method without negatives its stop-gradient, predictor and momentum as published"
        )
        return self.words


EMBEDDING = ("embedding_std", "embedding_rankme", "embedding_rankme_share")
FEATURE = ("feature_std", "rankme", "rankme_share")
