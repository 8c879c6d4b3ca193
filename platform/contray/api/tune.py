"""contray.tune"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import dotted

if TYPE_CHECKING:
    from ..tuning import SweepResult


def tune(
    space: str | Path, overrides: Mapping[str, Any] | None = None, *, preset: str = "", samples: int = 0, **options: Any
) -> SweepResult:
    """Search over a space (`contray spaces`, or your own .py file); ranked on held-out data, the test set is opened once, for the winner.

        sweep = contray.tune("simclr", {"data.source": "photos/"}, samples=8)
        sweep = contray.tune("simclr", data={"source": "photos/"}, samples=8)  # the same
        encoder = contray.load(sweep)  # of the best trial

    overrides: keys that all trials share. samples: trials to draw; 0: the space's own number. options: further ones of contray.tuning.sweep
    (metric, against, warm, scheduler, grace, concurrent, minutes, resume), or sections of keys, as contray.train takes them; warm takes what
    contray.tune gave back, too.
    """
    from ..tuning import sweep

    keys = {name: options.pop(name) for name in list(options) if name not in signature(sweep).parameters}
    options["warm"] = getattr(options.get("warm", ""), "run_id", options.get("warm", ""))
    return sweep(str(space), {**dotted(overrides), **dotted(keys)}, preset=preset, samples=samples, **options)
