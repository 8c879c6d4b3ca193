"""What a person sees while something long runs: a bar on a terminal and in a notebook, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from html import escape
from types import TracebackType
from typing import Any

LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal
SECOND_LINE = 5.0  # seconds until the second, the first that says how long it will take
PAGE_SECONDS = 0.2  # between two states of a notebook's bar
SURE_SECONDS, SLOWER = 20.0, 1.5  # of steps before their pace says anything, and how much longer than promised is worth a word
TROUBLES = "trouble."  # how the keys of messages begin whose words must be known; "" when it is over


def lasting(seconds: float) -> str:
    """A duration as people say it: 40 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, left = divmod(whole, 60)
    return f"{minutes} min {left:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def in_notebook() -> bool:
    """Whether what is displayed appears in a notebook."""
    found = sys.modules.get("IPython")
    return getattr(found.get_ipython() if found else None, "kernel", None) is not None


class TrainingBar:
    """Shows messages such as {"step": 3, "total": 250, "loss": 4.2, "images_per_second": 300, "knn_val_top1": .5}; keys may come one by one.

    Said also where the rest is quiet: {"collapse": words}; {"trouble.checkpoint": words}, and "" when that is over; {"said": [words, ...]}, what
    workers said; {"waiting": words}. {"durable": step} tells that a checkpoint is safe; {"unit": "image"} what is counted, where that is no step.
    patience: seconds before the first line in a log file. promised: seconds that all was planned to take, 0: nobody said so.
    """

    def __init__(self, title: str, quiet: bool = False, patience: float = 0.0) -> None:
        self.title, self.quiet, self.promised, self.seen = title, quiet, 0.0, {}
        self._bar: Any = None
        self._page: _Page | None = None
        self._next_line, self._lines, self._line = time.monotonic() + patience, 0, ""
        self._since: dict[str, float] = {}  # when each trouble began
        self._safe_at = self._entered = time.monotonic()
        self._began: tuple[float, int] | None = None  # when this stretch began, and at which step

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._page is not None:
            self._page.show(*self._state(), f"{lasting(time.monotonic() - self._entered)}{', cut off' if kind else ''}")

    def show(self, message: dict[str, Any]) -> None:
        """Take a message in and redraw; `resumed`, a step, and `workers` say that the run went on from there with so many."""
        message = dict(message)
        for words in message.pop("said", ()):
            self._tell(words)
        again = "resumed" in message and "step" in self.seen and message["resumed"] != self.seen.get("resumed")
        if "collapse" in message and message["collapse"] != self.seen.get("collapse"):
            self._say(message["collapse"])
        if message.get("waiting") and message["waiting"] != self.seen.get("waiting"):
            self._tell(message["waiting"])
        for key in message:
            if key.startswith(TROUBLES) and message[key] != self.seen.get(key, ""):
                self._trouble(key, message[key])
        if "durable" in message and message["durable"] != self.seen.get("durable"):
            self._safe_at = time.monotonic()
        if "step" in message and (self._began is None or message["step"] < self.seen.get("step", 0) or again):
            self._began = (time.monotonic(), message["step"])
        self.seen |= {"unit": "step", **message} if "step" in message else message
        if again and not self.quiet:
            workers = self.seen.get("workers", 1)
            self._say(f"going on from step {self.seen['resumed']} with {workers} worker{'s' if workers > 1 else ''}")
        if self.quiet or "total" not in self.seen:
            return
        self._hold_to_promise()
        if in_notebook():
            self._page = self._page or _Page(self.title)
            if time.monotonic() > self._page.shown + PAGE_SECONDS:
                self._page.show(*self._state(), ", ".join(self._outlook()))
        elif sys.stderr.isatty():
            self._draw()
        elif time.monotonic() > self._next_line and (line := self._counted()) != self._line:
            self._next_line = time.monotonic() + (LINE_SECONDS if self._lines else SECOND_LINE)
            self._lines, self._line = self._lines + 1, line
            self._say(", ".join([line, *self._outlook()]))

    def safe_seconds(self) -> float:
        """How long ago the last durable checkpoint was heard of; without one, how long this has been shown."""
        return time.monotonic() - self._safe_at

    def _trouble(self, key: str, words: str) -> None:
        if words:
            self._since.setdefault(key, time.monotonic())
            self._tell(words)
        else:
            self._tell(f"over after {lasting(time.monotonic() - self._since.pop(key, time.monotonic()))}: {self.seen[key]}")

    def _tell(self, words: str) -> None:
        """Say what must not be missed, in the driver's output."""
        if self._bar is not None:
            self._bar.console.print(f"contray: {words}", markup=False, highlight=False)
        else:
            print(f"contray: {words}", flush=True)

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(f"{self.title}: {line}", markup=False, highlight=False)
        else:
            print(f"{self.title}: {line}", file=sys.stderr, flush=True)

    def _hold_to_promise(self) -> None:
        """Say once that it will take much longer than was promised: a plan is made before, and the machine may be busier since."""
        now = time.monotonic()
        if not self.promised or not self._began or now < self._began[0] + SURE_SECONDS or (left := self._left()) is None:
            return
        whole = now - self._entered + left
        if whole > SLOWER * self.promised:
            self._tell(
                f"slower than planned: about {lasting(whole)} in place of {lasting(self.promised)}, as when something else keeps the machine "
                "busy; Ctrl-C leaves a checkpoint, the same command goes on"
            )
        self.promised = 0.0

    def _left(self) -> float | None:
        """Seconds that the steps to come will take at the pace of those since this stretch began; None before there was one."""
        if self._began is None or (done := self.seen["step"] - self._began[1]) <= 0:
            return None
        return (time.monotonic() - self._began[0]) / done * (self.seen["total"] - self.seen["step"])

    def _outlook(self) -> list[str]:
        """How long it will take, and how old the last durable checkpoint is."""
        words = []
        if (left := self._left()) is not None:
            words.append(f"{lasting(left)} to go")
        if "durable" in self.seen:
            words.append(f"checkpoint of step {self.seen['durable']}, {lasting(self.safe_seconds())} ago")
        return words

    def _counted(self) -> str:
        return ", ".join(filter(None, (f"{self.seen['unit']} {self.seen['step']}/{self.seen['total']}", self._words())))

    def _state(self) -> tuple[float, str]:
        """The share that is done, and what a notebook says of it."""
        return self.seen["step"] / max(self.seen["total"], 1), self._counted()

    def _words(self) -> str:
        words = []
        if self.seen.get("phase"):
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
        self._bar.update(self._task, completed=self.seen["step"], total=self.seen["total"], words=self._words())


@dataclass
class _Page:
    """One output of a notebook's cell, drawn over whenever it changes; what is kept of it is its last state."""

    title: str
    share: float = 0.0
    words: str = ""
    shown: float = 0.0
    handle: Any = None

    def show(self, share: float, words: str, more: str) -> None:
        """Draw it over: the bar at `share` of its length, `words` beside it, then what more there is to say."""
        from IPython.display import display  # pyright: ignore[reportMissingImports] (whoever has a notebook has it)

        self.share, self.words, self.shown = share, ", ".join(filter(None, (words, more))), time.monotonic()
        if self.handle is None:
            self.handle = display(self, display_id=True)
        else:
            self.handle.update(self)

    def __repr__(self) -> str:
        return f"{self.title}: {self.words}"

    def _repr_html_(self) -> str:
        bar = f'<progress max="1" value="{self.share:.3f}" style="width:16em;vertical-align:middle"></progress>'
        return f"<div>{escape(self.title)} {bar} {escape(self.words)}</div>"
