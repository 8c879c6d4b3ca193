"""contray.compare"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .named import named

if TYPE_CHECKING:
    from ..track.comparing import Comparison
    from ..training.result import Results
    from .named import Run


def compare(
    runs: Sequence[Run | Results] | Results = (),
    *,
    experiment: str = "contray",
    uri: str = "",
    metrics: Sequence[str] = (),
    out: str | Path | None = None,
) -> Comparison:
    """Runs beside each other: configurations over their seeds, what they differ in, and whether by more than chance. It prints as tables.

        contray.compare()  # all runs of the experiment
        contray.compare([result, "moco-digits-1a2b3c4d"], out="compare.png").csv()

    runs: as `contray.load` takes one, of a sweep all its trials, of several seeds each; none: all of the experiment.
    metrics: further ones to show, as MLflow names them. out: the file of a picture.
    """
    from .. import track
    from ..pictures import check_out
    from ..pictures.comparison import draw
    from ..track import comparing

    found = [named(each, uri) for each in _single(runs)]
    if out is not None:
        check_out(Path(out))
    uri = track.resolve_uri(uri or next((each.uri for each in found), ""))
    comparison = comparing.compare(uri, [each.run_id for each in found], experiment, metrics)
    if out is not None:
        draw(comparison, Path(out))
    return comparison


def _single(runs: Sequence[Run | Results] | Results) -> list[Any]:
    """What people hand over, one by one: what `train` gave back for several seeds is a tuple, and a sweep is meant with its trials."""
    each = [one for run in runs for one in (run if isinstance(run, tuple) else (run,))]
    return [getattr(run, "run_id", run) if hasattr(run, "trials") else run for run in each]
