"""A bar on stderr for what reads many images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

SLOW = 2000  # images from which a bar is shown


@contextmanager
def progress(what: str, total: int | None = None, least: int = SLOW) -> Iterator[Callable[[int], None]]:
    """Yields advance(n): it moves a bar where there are `least` or more, on a terminal alone, and nothing for few. total: None where nobody knows yet."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console, bars, done = Console(stderr=True), list[Progress](), 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if not bars and max(total or 0, done) >= least:
            bars.append(Progress(*columns, console=console, transient=True, disable=not console.is_terminal))
            bars[0].start()
            bars[0].add_task(what, total=total)
        if bars:
            bars[0].update(bars[0].task_ids[0], completed=done)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.stop()
