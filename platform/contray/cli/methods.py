"""contray methods"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from . import documents
from .options import Positional, arg, json_note
from .output import answer

EXAMPLES = (
    ("contray methods", "two tables: what each contrasts, and its presets"),
    ("contray methods --json", "the same for a script"),
    ("contray methods my_method.py", "how your own would stand there"),
)


@dataclass(frozen=True)
class Options:
    """List the methods, those of installed packages too: paper, year, what each contrasts, its presets and what to expect of them."""

    methods: Annotated[Positional[tuple[str, ...]], arg("these alone: names, or paths of your own .py files")] = ()
    json: Annotated[bool, json_note(documents.METHODS)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Show the tables."""
    from ..config.registry import name_code
    from .results import method_rows, show_methods

    with answer(options.json) as tell:
        name_code(*options.methods)
        rows = method_rows(options.methods)
        tell(rows)
        if not options.json:
            show_methods(rows)
    return 0
