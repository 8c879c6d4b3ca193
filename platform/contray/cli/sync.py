"""contray sync"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from . import documents
from .options import CODE_HELP, Positional, arg, json_note
from .output import answer

EXAMPLES = (
    ("contray sync", "all runs under contray_runs"),
    ("contray sync moco-digits-1a2b3c4d", "one run, by its name or its folder"),
    (
        "contray sync --scale.storage s3://bucket/runs --track.uri http://mlflow.example:5000",
        "runs of a cluster, to where MLflow is now",
    ),
)


@dataclass(frozen=True)
class Options:
    """Send what MLflow lacks of runs that have ended: points, pictures, encoder, status. Nothing is sent twice."""

    runs: Annotated[Positional[tuple[str, ...]], arg("names of runs, or their folders; none: all runs in the storage")] = ()
    code: Annotated[tuple[str, ...], arg(CODE_HELP)] = ()
    scale__storage: Annotated[str, arg("where the runs are kept: a path or an address", name="scale.storage")] = "contray_runs"
    track__uri: Annotated[str, arg("where MLflow is now; empty: where each run was recorded", name="track.uri")] = ""
    track__again: Annotated[bool, arg("a new MLflow run takes the place of one that is gone", name="track.again")] = False
    json: Annotated[bool, json_note(documents.SYNCED)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Send; 1 where something is still unsent."""
    from ..training.syncing import sync

    with answer(options.json) as tell:
        done = sync(
            options.runs,
            storage=options.scale__storage,
            uri=options.track__uri,
            code=options.code,
            again=options.track__again,
        )
        for each in done:
            print(each)
        if not done:
            print(f"MLflow lacks nothing of the runs in {options.scale__storage}")
        tell({"runs": done})
    return 1 if any(each.unsent or each.problem for each in done) else 0
