"""Ctrl-C and SIGTERM, once and twice."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts(asked: list[bool]) -> Iterator[None]:
    """Ctrl-C or SIGTERM (a batch system's, a spot machine's) once asks for a stop after the next step, with a checkpoint; twice stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        if asked[0]:
            raise KeyboardInterrupt
        asked[0] = True
        print("\nstopping after a checkpoint; Ctrl-C again stops at once", flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
