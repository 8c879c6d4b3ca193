"""Ctrl-C, SIGTERM and a closed terminal: once and twice, while a run trains and while it does anything else.

A batch system, a spot machine or `ray job stop` (after 3 s) follows its SIGTERM with a SIGKILL. So MLflow is told at once that the run is
stopped, from a thread, whatever the run itself is waiting for; how it really ended is told when it has.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["FINISHED", "FAILED", "KILLED"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TELL_SECONDS = 20.0  # that a run's end waits for what a signal began to tell


@dataclass(eq=False)
class Telling:
    """Whom a signal concerns, and the thread that tells them."""

    tell: Callable[[], object]
    thread: threading.Thread | None = None


_telling: list[Telling] = []


@contextlib.contextmanager
def stoppable(tell: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within, a signal calls `tell` (and that of every `stoppable` around) in a thread, and raises KeyboardInterrupt in place of ending the
    process, unless `interrupts`, `telling_the_end` or a handler that calls `note_stop` takes it."""
    entry = Telling(tell)
    _telling.append(entry)

    def handle(number: int, frame: object) -> None:
        note_stop()
        raise KeyboardInterrupt

    try:
        with _handled(handle):
            yield
    finally:
        _telling.remove(entry)


@contextlib.contextmanager
def telling_the_end() -> Iterator[None]:
    """Within, the end of the innermost `stoppable` is told for good: what a signal began to tell has been told before, or is overdue by
    TELL_SECONDS, and a signal is heard afterwards, by KeyboardInterrupt; a second one at once."""
    asked = [False]

    def handle(number: int, frame: object) -> None:
        if asked[0]:
            raise KeyboardInterrupt
        asked[0] = True
        note_stop(_telling[:-1])

    with _handled(handle):
        for entry in _telling[-1:]:
            if entry.thread:
                entry.thread.join(TELL_SECONDS)
        yield
    if asked[0]:
        raise KeyboardInterrupt


@dataclass
class Ending:
    """How something under way ends: FAILED until it says otherwise."""

    status: Status = "FAILED"


@contextlib.contextmanager
def ending(killed: Callable[[], object], end: Callable[[Status], None]) -> Iterator[Ending]:
    """Within, `stoppable`: a signal calls `killed`. Afterwards, `telling_the_end`, `end` is told how it ended, KILLED where by KeyboardInterrupt."""
    how = Ending()
    with stoppable(killed):
        try:
            yield how
        except KeyboardInterrupt:
            how.status = "KILLED"
            raise
        finally:
            with telling_the_end():
                end(how.status)


@contextlib.contextmanager
def interrupts(asked: list[bool]) -> Iterator[None]:
    """A signal once asks for a stop after the next step, with a checkpoint; twice stops at once."""

    def handle(number: int, frame: object) -> None:
        if asked[0]:
            raise KeyboardInterrupt
        asked[0] = True
        note_stop()
        with contextlib.suppress(OSError):  # the terminal is closed
            print("\nstopping after a checkpoint; Ctrl-C again stops at once", flush=True)

    with _handled(handle):
        yield


def note_stop(whom: Sequence[Telling] = _telling) -> None:
    """A signal asks for the end: tell whom it concerns, once, without waiting for them."""
    for entry in whom:
        if entry.thread is None:
            entry.thread = threading.Thread(target=_quietly, args=(entry.tell,), name="stop", daemon=True)
            entry.thread.start()


def _quietly(tell: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):  # the run's end tells it again, and says what hinders
        tell()


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """What handles a signal does so afterwards too, whatever is called within: Ray sets a handler of its own as a process joins a cluster."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)


@contextlib.contextmanager
def _handled(handle: Callable[[int, object], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # a SIGHUP that whoever started this process has it ignore (nohup) stays ignored
    taken = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
