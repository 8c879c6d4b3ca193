"""A metric of several runs of MLflow while they trained, in one plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import track
from ..drawing import draw_runs
from ..errors import UserError, nearest
from ..track.comparing import family_of, grouped, settings_of
from ..track.runs import find_runs, points_of, without_parents

MOST = 24  # configurations whose curves an eye can tell apart by their names


def draw(uri: str, run_ids: Sequence[str], metric: str, out: Path) -> None:
    """A line per configuration, the mean over its seeds; a parent of seeds or of a sweep stands for its children.

    Raises UserError for an unknown run, for a metric that not every run has, and for more than MOST configurations.
    """
    track.check(uri, exists=True)
    with track.asking(uri, "reading runs") as talk:
        runs = without_parents(talk, find_runs(talk, uri, run_ids))
        for run in runs:
            if metric not in run.data.metrics:
                raise UserError(f"--metric: run {run.info.run_id} has no {metric!r}; {nearest(metric, run.data.metrics)}")
        groups = grouped(runs)
        if len(groups) > MOST:
            raise UserError(f"--run: {len(groups)} configurations are more than one picture can show ({MOST}); name fewer")
        found = [
            (
                name_of(*family_of(group[0]), settings_of(differs)),
                [(run.data.params.get("seed", ""), points_of(talk, run.info.run_id, metric)) for run in group],
            )
            for group, differs in groups
        ]
    draw_runs(found, metric, out)


def name_of(method: str, preset: str, dataset: str, settings: str) -> str:
    """A configuration in one line."""
    return f"{Path(method).stem} {preset} on {Path(dataset).name}{': ' + settings if settings else ''}"
