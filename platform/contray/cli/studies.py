"""contray studies"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from . import documents
from .options import URI_HELP, arg, json_note
from .output import answer

EXAMPLES = (
    ("contray studies", "what each claims, what it costs, and its latest verdict"),
    ("contray studies --track.experiment papers", "the verdicts of another experiment"),
    ("contray studies --json", "the same for a script, with sources and links to the runs"),
)


@dataclass(frozen=True)
class Options:
    """List the studies: each a claim of a paper that one command tests, with its latest verdict at each scale."""

    track__experiment: Annotated[str, arg("MLflow experiment", name="track.experiment")] = "contray"
    track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""
    json: Annotated[bool, json_note(documents.STUDIES)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Show the table."""
    from .. import track
    from ..studies.listing import studies_table, study_rows
    from .output import show

    with answer(options.json) as tell:
        rows = study_rows(track.resolve_uri(options.track__uri), options.track__experiment)
        tell(rows)
        if not options.json:
            show(studies_table(rows), "whose claim each is: contray study STUDY --dry-run, or contray studies --json")
    return 0
