"""contray evaluations"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from . import documents
from .options import json_note
from .output import answer

EXAMPLES = (
    ("contray evaluations", "what each measures, and what it needs"),
    ("contray evaluations --json", "the same for a script"),
    ("contray evaluations --help", "what the fields are"),
)


@dataclass(frozen=True)
class Options:
    """List the evaluations: what each measures, what it needs, and by which of its metrics trials can be ranked."""

    json: Annotated[bool, json_note(documents.EVALUATIONS)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Show the table."""
    from .results import evaluation_rows, show_evaluations

    with answer(options.json) as tell:
        rows = evaluation_rows()
        tell(rows)
        if not options.json:
            show_evaluations(rows)
    return 0
