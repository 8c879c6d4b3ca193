"""What a command prints: words for people, or with --json one document on stdout and everything else on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..tables import FILE_WIDTH


@contextmanager
def answer(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Gives what prints the document; it does nothing without --json. With it, all that is printed meanwhile goes to stderr.

    A command that fails prints no document.
    """
    if not as_json:
        yield lambda document: None
        return
    documents: list[Any] = []
    with aside():
        yield documents.append
    for document in documents:
        print(json.dumps(plain(document), indent=1, ensure_ascii=False, allow_nan=False))


@contextmanager
def aside() -> Iterator[None]:
    """All that is printed meanwhile goes to stderr, also what libraries and child processes write."""
    out = sys.stdout
    out.flush()
    kept = os.dup(1) if out is sys.__stdout__ else None  # else a test's, or of whoever calls main()
    if kept is not None:
        os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stdout = out
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def plain(value: Any) -> Any:
    """As JSON has it: dataclasses as mappings, tuples as lists, paths as text, numbers that are none as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    value = getattr(value, "item", lambda: value)()  # of NumPy's and torch's scalars
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(*things: Any) -> None:
    """Print tables and lines as they are; a file has room for 140 characters."""
    from rich.console import Console

    as_is: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}  # names of classes and files are what they are
    console = Console(**as_is)
    if not console.is_terminal:
        console = Console(**as_is, width=FILE_WIDTH)
    width = console.width
    for thing in things:
        console.width = max(width, getattr(thing, "least", 0))
        console.print(thing, soft_wrap=isinstance(thing, str))
