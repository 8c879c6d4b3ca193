"""contray compare"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from . import documents
from .options import URI_HELP, arg, json_note
from .output import answer

EXAMPLES = (
    ("contray compare", "all finished runs of the experiment contray"),
    ("contray compare --run RUN_ID RUN_ID --out two.png", "these runs; a sweep or a group of seeds stands for its children"),
    ("contray compare --track.experiment shapes --json", "another experiment, as JSON"),
)


@dataclass(frozen=True)
class Options:
    """A table of runs, configurations as rows (mean and std over seeds), a plot, and the link to MLflow's comparison."""

    run: Annotated[tuple[str, ...], arg("ids of MLflow runs; none: all finished runs of the experiment")] = ()
    out: Annotated[Path, arg("where the plot goes")] = Path("compare.png")
    metric: Annotated[tuple[str, ...], arg("further metrics to show, as MLflow names them")] = ()
    track__experiment: Annotated[str, arg("MLflow experiment", name="track.experiment")] = "contray"
    track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""
    json: Annotated[bool, json_note(documents.COMPARISON)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Read the runs, draw the plot and show the table."""
    from .. import track
    from ..track.comparing import compare

    with answer(options.json) as tell:
        found = compare(
            track.resolve_uri(options.track__uri), options.run, options.track__experiment, options.out, options.metric
        )
        tell(documents.of_comparison(found))
    return 0
