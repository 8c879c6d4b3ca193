"""The texts of the documentation, and what in them is typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HISTORY = {"RESULTS.md", "LOG.md"}  # of commands as they were
TEXTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(path for path in DOCS.rglob("*.md") if path.name not in HISTORY)])


def blocks(text: str, *kinds: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of the fenced blocks of these kinds, in order."""
    for kind, inner in re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if kind in kinds:
            yield kind, inner


def lines(text: str) -> Iterator[list[str]]:
    """The command lines of contray in a text, as words without the program: of blocks of commands, and in the midst of sentences."""
    for _, inner in blocks(text, "bash", "sh"):
        for line in inner.replace("\\\n", " ").splitlines():
            for part in line.partition("  #")[0].split("&&"):
                words = shlex.split(part)
                if words and Path(words[0]).name == "contray":
                    yield words[1:]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for inner in re.findall(r"`contray ([a-z][^`\n]*)`", prose):
        if "..." not in inner:
            yield shlex.split(inner)
