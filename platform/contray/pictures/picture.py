"""A picture that was drawn: where it lies and the numbers that it yields; a notebook shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..tables import Shown


class Picture(Shown, dict[str, float]):
    """The numbers by name. path: the file."""

    def __init__(self, path: Path, metrics: Mapping[str, float]) -> None:
        super().__init__(metrics)
        self.path = path

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers by themselves."""
        return dict(self)

    @property
    def lines(self) -> list[str]:
        """Each number in words, beside the untrained encoder's where that was looked at."""
        return [
            f"{name} {value:.3f}" + (f", untrained {self[f'random_{name}']:.3f}" if f"random_{name}" in self else "")
            for name, value in self.items()
            if not name.startswith("random_")
        ]

    @property
    def shown(self) -> list[str | Path]:
        return [self.path, *self.lines]

    def _repr_png_(self) -> bytes | None:
        return self.path.read_bytes() if self.path.suffix == ".png" else None

    def _repr_html_(self) -> str | None:
        """Of other kinds than PNG, which the page has already."""
        return None if self.path.suffix == ".png" else super()._repr_html_()
