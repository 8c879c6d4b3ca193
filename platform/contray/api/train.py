"""contray.train"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import RunConfig

if TYPE_CHECKING:
    from ..training.launch import Result


def train(config: RunConfig, *, quiet: bool = False, yes: bool = False) -> Result:
    """Train as `contray train` does: to the end, or on from where an unfinished run of the same config stands.

    yes: may take more than a day on a CPU.
    """
    from ..training.launch import launch

    return launch(config, quiet=quiet, yes=yes)
