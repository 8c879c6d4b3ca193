"""contray report"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from . import documents
from .options import CHECKPOINT_HELP, CODE_HELP, URI_HELP, Positional, arg, json_note
from .output import answer

EXAMPLES = (
    ("contray report RUN", "a run by its id, name or folder; a group of seeds and a sweep too"),
    ("contray report RUN --out moco.html", "under another name"),
    ("contray report --checkpoint contray_runs/RUN", "of a checkpoint, without MLflow"),
)


@dataclass(frozen=True)
class Options:
    """One HTML page of a run that needs nothing but itself: verdict, curves, pictures, confusion, data, config. The run in MLflow keeps it too."""

    run: Annotated[Positional[str], arg("id, name or folder of a run, a group of seeds or a sweep")] = ""
    checkpoint: Annotated[str, arg(CHECKPOINT_HELP)] = ""
    out: Annotated[Path, arg("the page to write")] = Path("report.html")
    code: Annotated[tuple[str, ...], arg(CODE_HELP)] = ()
    track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""
    json: Annotated[bool, json_note(documents.PAGE)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Write the page and say where it is."""
    from ..reporting import report

    with answer(options.json) as tell:
        page = report(
            options.run, checkpoint=options.checkpoint, uri=options.track__uri, out=options.out, code=options.code, quiet=False
        )
        print(f"wrote {page}: {page.absolute().as_uri()}")
        tell({"page": page})
    return 0
