"""Whom a run tells what happens, and who may ask something of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..data import Source


class Listener:
    """What a run tells the outside, on rank 0. This one ignores everything; tracking, progress and Tune each override some."""

    speaks: ClassVar[bool] = False  # whether `trouble` reaches who watches the run; else it is also a warning

    def opened(self, source: Source, fingerprint: Mapping[str, str]) -> None:
        """The data that the run sees, and what they hold (`data.fingerprint`); said again where the run goes back."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics after `step` optimiser steps."""

    def evaluated(self, step: int, fraction: float, values: Mapping[str, float], save: Callable[[], dict[str, Any]]) -> None:
        """Online evaluation after `step` steps, `fraction` of the run; `save()` gives the state that a checkpoint would hold."""

    def collapsed(self, step: int, words: str) -> None:
        """The collapse alarm, once in a run, after the evaluation at `step`."""

    def durable(self, step: int) -> None:
        """A checkpoint covers everything logged up to `step`. Called from the writing thread."""

    def trouble(self, what: str, words: str) -> None:
        """Something that must be known goes wrong (`what`: "checkpoint", "damage", "storage"), or, with no words, is mended. Called from any thread."""

    def pending(self) -> list[tuple[str, float, int, int]]:
        """Points (name, value, time in ms, step) that are not known to have arrived; they travel in checkpoints."""
        return []

    def restore(self, state: Mapping[str, Any]) -> None:
        """The run goes on from this checkpoint."""

    def stop(self) -> bool:
        """Whether someone asked the run to stop; it then leaves a checkpoint."""
        return False

    def hurry(self) -> bool:
        """Whether checkpoints should follow each other closely, since the run may soon lose its machines. Asked before every step."""
        return False
