"""contray methods"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from . import documents
from .options import json_note
from .output import answer

EXAMPLES = (
    ("contray methods", "two tables: what each contrasts, and its presets"),
    ("contray methods --json", "the same for a script"),
    ("contray methods --help", "what the fields are"),
)


@dataclass(frozen=True)
class Options:
    """List the methods: paper, year, what each contrasts, its presets and what to expect of them."""

    json: Annotated[bool, json_note(documents.METHODS)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Show the tables."""
    from .results import method_rows, show_methods

    with answer(options.json) as tell:
        rows = method_rows()
        tell(rows)
        if not options.json:
            show_methods(rows)
    return 0
