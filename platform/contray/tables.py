"""A table of results, the same in a terminal, in a notebook, in Markdown and in a page."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as RichTable

PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}  # that a page can show, and their kinds
FILE_WIDTH = 140  # characters that a file or a pipe has room for
SHARES = ("_top1", "_gain", "_ap", "_miou", "_jaccard", "_purity")  # ends of the names of metrics that are shares
LEFT = 14  # characters that a column to the left keeps beside numbers that are not folded


STYLE = (  # of a table that stands by itself in a notebook, light or dark
    "<style>table.contray{border-collapse:collapse;margin:.4em 0}table.contray caption{caption-side:top;text-align:left;font-weight:600;padding:.2em 0}"
    "table.contray td,table.contray th{padding:.2em .7em;white-space:nowrap}table.contray thead{border-bottom:1px solid currentColor}"
    "table.contray tr.section{border-top:1px solid currentColor}.contray-caption{margin:.2em 0;white-space:pre-line;opacity:.75}"
    "img.contray{max-width:100%}</style>"
)


class Table:
    """Rows of texts below headings; the first column stands to the left, the others to the right. It prints itself wherever it is shown.

    left: columns that stand to the left; sections: rows (by number) above which a line is drawn; caption: what is said below. dense: for many
    numbers: no frame, and what stands to the right is never folded.
    """

    def __init__(self, title: str, *columns: str, left: Iterable[int] = (0,), caption: str = "", dense: bool = False) -> None:
        self.title, self.columns, self.caption, self.dense = title, columns, caption, dense
        self.rows: list[tuple[str, ...]] = []
        self.left, self.sections = frozenset(left), set[int]()

    def add(self, *cells: str) -> None:
        """One more row."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for the columns {', '.join(self.columns)}")
        self.rows.append(cells)

    def divide(self) -> None:
        """A line between the rows so far and those to come."""
        self.sections.add(len(self.rows))

    def __rich__(self) -> RichTable | Group:
        from rich.box import HEAVY_HEAD, SIMPLE_HEAD
        from rich.table import Table as RichTable

        made = RichTable(
            title=None if self.dense else self.title or None, title_justify="left", caption=None if self.dense else self.caption or None, caption_justify="left",
            box=SIMPLE_HEAD if self.dense else HEAVY_HEAD, show_edge=not self.dense, padding=(0, 1, 0, 0) if self.dense else (0, 1),
        )  # fmt: skip
        for i, column in enumerate(self.columns):
            whole = self.dense and i not in self.left
            made.add_column(column, justify="left" if i in self.left else "right", overflow="fold", no_wrap=whole)
        for i, row in enumerate(self.rows):
            if i and i in self.sections:
                made.add_section()
            made.add_row(*row)
        if self.dense:  # a narrow table would fold them to its own width
            from rich.console import Group

            return Group(*filter(None, (self.title, made, self.caption)))
        return made

    @property
    def least(self) -> int:
        """Characters that it takes at least: below, numbers that are not to be folded would be cut."""
        if not self.dense:
            return 0
        widths = [
            max(len(line) for row in (self.columns, *self.rows) for line in row[i].split("\n")) for i in range(len(self.columns))
        ]
        return sum(2 + (min(width, LEFT) if i in self.left else width) for i, width in enumerate(widths))

    def text(self, width: int = 0) -> str:
        """As a terminal of so many characters shows it; 0: as wide as the one at hand, or as a file has room for."""
        from rich.console import Console

        width = max(width or (shutil.get_terminal_size().columns if sys.stdout.isatty() else FILE_WIDTH), self.least)
        console = Console(width=width, highlight=False, markup=False, emoji=False, color_system=None, force_jupyter=False)
        with console.capture() as taken:
            console.print(self)
        return "\n".join(line.rstrip() for line in taken.get().splitlines())

    __str__ = text

    def __repr__(self) -> str:
        return self.text()

    def markdown(self) -> str:
        """As Markdown has it, with the title above and the caption below."""
        lines = ["| " + " | ".join(map(_cell, self.columns)) + " |"]
        lines.append("|" + "".join("---|" if i in self.left else "---:|" for i in range(len(self.columns))))
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in self.rows]
        return "\n\n".join(filter(None, [self.title and f"**{self.title}**", "\n".join(lines), self.caption]))

    def latex(self) -> str:
        """As LaTeX has it with the package booktabs: a `table` with the title as its caption and what stands below as a comment."""
        sides = "".join("l" if i in self.left else "r" for i in range(len(self.columns)))
        lines = [f"% {line}" for line in self.caption.splitlines()]
        lines += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.title)}}}",
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
        ]
        lines += [" & ".join(map(_latex, self.columns)) + r" \\", r"\midrule"]
        for i, row in enumerate(self.rows):
            lines += [r"\midrule"] if i and i in self.sections else []
            lines.append(" & ".join(map(_latex, row)) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])

    def _repr_html_(self) -> str:
        return STYLE + self.html()

    def html(self) -> str:
        """As a page has it: a <table class="contray"> whose cells are escaped; how it looks is the page's."""

        def row(cells: Sequence[str], kind: str, begins: str = "") -> str:
            sides = ("left" if i in self.left else "right" for i in range(len(cells)))
            inner = "".join(
                f'<{kind} style="text-align:{side}">{_lines(cell)}</{kind}>' for cell, side in zip(cells, sides, strict=True)
            )
            return f"<tr{begins}>{inner}</tr>"

        body = "".join(
            row(cells, "td", ' class="section"' if i and i in self.sections else "") for i, cells in enumerate(self.rows)
        )
        title = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        below = f'<p class="contray-caption">{escape(self.caption)}</p>' if self.caption else ""
        return f'<table class="contray">{title}<thead>{row(self.columns, "th")}</thead><tbody>{body}</tbody></table>{below}'


def hanging(text: str, indent: int) -> str:
    """Lines that begin with a name of `indent` characters, folded where the terminal ends; a pipe or file gets them whole, and commands stay whole."""
    if not sys.stdout.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, 2 * indent)
    lines = (
        line if line[indent:].startswith("contray ") else textwrap.fill(
            line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
        for line in text.splitlines()
    )  # fmt: skip
    return "\n".join(lines)


class Shown:
    """What shows itself as tables, lines and pictures (paths), in a terminal and in a notebook: `shown` says which."""

    @property
    def shown(self) -> Sequence[Table | str | Path]:
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n".join(str(each) for each in self.shown)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return STYLE + "".join(map(_html, self.shown))


def _html(each: Table | str | Path) -> str:
    if isinstance(each, Table):
        return each.html()
    if isinstance(each, Path) and each.suffix in PICTURES and each.is_file():
        kind, data = PICTURES[each.suffix], b64encode(each.read_bytes()).decode()
        return f'<img class="contray" alt="{escape(each.stem)}" src="data:{kind};base64,{data}">'
    return f"<div>{_lines(str(each))}</div>"


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _latex(text: str) -> str:
    """Text with LaTeX's own signs escaped; minus and plus-minus as mathematics has them."""
    text = re.sub(r"[&%$#_{}]", r"\\\g<0>", re.sub(r"\s+", " ", text).replace("\\", "/"))
    text = (
        text.replace("~", r"\textasciitilde{}")
        .replace("^", r"\textasciicircum{}")
        .replace("…", r"\dots{}")
        .replace(" ± ", r" $\pm$ ")
    )
    return re.sub(r"^([+-])(?=\d)", r"$\1$", text)
