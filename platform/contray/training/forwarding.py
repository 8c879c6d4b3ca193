"""What contray says in a worker reaches the driver: Ray shows the output of workers to nobody."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).parents[1])
PREFIX = "contray: "


@contextlib.contextmanager
def forwarding(say: Callable[[str], None]) -> Iterator[None]:
    """Within, every line that is printed and starts with `contray: `, and every warning and log record of a warning that contray's
    own code gives, goes to `say` too, without the prefix. From any thread of this process."""
    handler = _Records(say)
    logger = logging.getLogger("contray")
    plain = warnings.showwarning

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        plain(message, category, filename, lineno, file, line)
        if filename.startswith(HERE):
            say(" ".join(str(message).split()))

    logger.addHandler(handler)
    warnings.showwarning = show
    try:
        with contextlib.redirect_stdout(_Lines(sys.stdout, say)):
            yield
    finally:
        warnings.showwarning = plain
        logger.removeHandler(handler)


class _Lines(io.TextIOBase):
    """A stream that passes on all that is written to it, and says its lines of ours."""

    def __init__(self, out: Any, say: Callable[[str], None]) -> None:
        self.out, self.say, self.line = out, say, ""

    def write(self, text: str) -> int:
        self.out.write(text)
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            if line.startswith(PREFIX):
                self.say(line.removeprefix(PREFIX))
        return len(text)

    def flush(self) -> None:
        self.out.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.out, name)


class _Records(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(" ".join(record.getMessage().split()))
