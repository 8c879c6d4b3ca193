"""Some samples of a split as a split of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .digests import digest
from .splits import Split


class Subset(Split):
    """Samples `ids` of another split, in any order and number: sample j is its ids[j], so that copies of an image get crops of their own."""

    def __init__(self, base: Split, ids: np.ndarray) -> None:
        super().__init__(base.classes)
        self.base, self.ids = base, ids
        self.labels = None if base.labels is None else base.labels[ids]
        self.groups = None if base.groups is None else base.groups[ids]
        self.generated, self.columns, self.channels, self.decoded = base.generated, base.columns, base.channels, base.decoded

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int, rng: np.random.Generator | None) -> np.ndarray:
        return self.base.image(int(self.ids[i]), rng)

    def value(self, i: int, column: str, rng: np.random.Generator | None) -> Any:
        return self.base.value(int(self.ids[i]), column, rng)

    def describe(self, i: int) -> str:
        return self.base.describe(int(self.ids[i]))

    def key(self, i: int) -> str:
        return self.base.key(int(self.ids[i]))

    def content(self) -> str:
        return digest(self.base.content(), self.ids)

    def expect(self, ids: Sequence[int]) -> None:
        self.base.expect([int(self.ids[i]) for i in ids])

    def prepare(self) -> None:
        self.base.prepare()
        self.decoded = self.base.decoded
        known = self.base.broken
        self.broken |= {place: known[i] for place, i in enumerate(self.ids.tolist()) if i in known} if known else {}

    def notes(self) -> Sequence[str]:
        return self.base.notes()
