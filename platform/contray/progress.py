"""What a person sees while something long runs: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class TrainingBar:
    """Shows messages such as {"step": 3, "total": 250, "loss": 4.2, "images_per_second": 300, "knn_val_top1": .5}; keys may come one by one."""

    def __init__(self, title: str, quiet: bool = False) -> None:
        self.title, self.quiet, self.seen = title, quiet, {}
        self._bar: Any = None
        self._last_line, self._line = 0.0, ""

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, message: dict[str, Any]) -> None:
        """Take a message in and redraw; `resumed`, a step, and `workers` say that the run went on from there with so many."""
        again = "resumed" in message and "step" in self.seen and message["resumed"] != self.seen.get("resumed")
        if "collapse" in message and message["collapse"] != self.seen.get("collapse"):  # also where the rest is quiet
            self._say(message["collapse"])
        self.seen |= message
        if again and not self.quiet:
            workers = self.seen.get("workers", 1)
            self._say(f"going on from step {self.seen['resumed']} with {workers} worker{'s' if workers > 1 else ''}")
        if self.quiet or "total" not in self.seen:
            return
        if sys.stderr.isatty():
            self._draw()
        elif (
            time.monotonic() - self._last_line > 10
            and (line := f"step {self.seen['step']}/{self.seen['total']}, {self._words()}") != self._line
        ):
            self._last_line, self._line = time.monotonic(), line
            self._say(line)

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(f"{self.title}: {line}", markup=False, highlight=False)
        else:
            print(f"{self.title}: {line}", file=sys.stderr, flush=True)

    def _words(self) -> str:
        words = []
        if "phase" in self.seen:
            words.append(self.seen["phase"])
        if "loss" in self.seen:
            words.append(f"loss {self.seen['loss']:.3f}")
        if "knn_val_top1" in self.seen:
            words.append(f"k-NN {100 * self.seen['knn_val_top1']:.1f} %")
        if self.seen.get("images_per_second"):
            words.append(f"{self.seen['images_per_second']:,.0f} images/s")
        return ", ".join(words)

    def _draw(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[words]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=False)
            self._task = self._bar.add_task(self.title, total=self.seen["total"], words="")
            self._bar.start()
        self._bar.update(self._task, completed=self.seen["step"], words=self._words())
