"""How the site reads docstrings."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Plain(griffe.Extension):
    """Docstrings are text: of Markdown they have backticks, and `*` and `_` mean themselves."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Escape them, outside of backticks; lines that are set in stay as they are."""
        if obj.docstring:
            lines = obj.docstring.value.split("\n")
            obj.docstring.value = "\n".join(line if line.startswith("    ") else _escaped(line) for line in lines)


def _escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if i % 2 else re.sub(r"([*_<])", r"\\\1", part) for i, part in enumerate(parts))
