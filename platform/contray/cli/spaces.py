"""contray spaces"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from . import documents
from .options import json_note
from .output import answer

EXAMPLES = (
    ("contray spaces", "what each space searches, and over what"),
    ("contray spaces --json", "the same for a script"),
    ("contray spaces --help", "what the fields are"),
)


@dataclass(frozen=True)
class Options:
    """List the search spaces: the keys that each searches and over what."""

    json: Annotated[bool, json_note(documents.SPACES)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Show the table."""
    from .results import show_spaces, space_rows

    with answer(options.json) as tell:
        rows = space_rows()
        tell(rows)
        if not options.json:
            show_spaces(rows)
    return 0
