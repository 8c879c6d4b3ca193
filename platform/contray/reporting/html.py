"""Pieces of a page. Whatever comes from outside passes through `Markup.format`, which escapes it."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..tables import Table


@dataclass(frozen=True)
class Section:
    """A title and what stands below it."""

    title: str
    parts: list[Markup]

    @property
    def id(self) -> str:
        return anchor(self.title)


def anchor(title: str) -> str:
    """A title as it stands behind #."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def text(words: str, kind: str = "") -> Markup:
    """A paragraph; kind: note, warning or caption. What stands in backticks is code."""
    said = Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else Markup("{}").format(part) for i, part in enumerate(words.split("`"))
    )
    return Markup('<p class="{}">{}</p>').format(kind, said) if kind else Markup("<p>{}</p>").format(said)


def join(parts: Iterable[Markup]) -> Markup:
    return Markup("\n").join(parts)


def table(shown: Table) -> Markup:
    """A table that scrolls by itself where the page is narrower."""
    return Markup('<div class="wide" tabindex="0" role="region" aria-label="{}">{}</div>').format(
        shown.title or "table", Markup(shown.html())
    )


def image(png: bytes, alt: str, caption: str = "") -> Markup:
    """A picture in the page itself."""
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    return Markup('<figure class="picture"><img src="{}" alt="{}">{}</figure>').format(source, alt, below)


def code(content: str, label: str) -> Markup:
    """Text with a button that copies it."""
    return Markup(
        '<div class="code"><button type="button" class="copy" aria-label="Copy: {}">Copy</button><pre tabindex="0"><code>{}</code></pre></div>'
    ).format(label, content)


def folded(title: str, inner: Markup) -> Markup:
    return Markup("<details><summary>{}</summary>{}</details>").format(title, inner)


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Names and values; empty values are left out."""
    rows = join(Markup("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in pairs if value)
    return Markup("<dl>{}</dl>").format(rows)


def bars(values: Sequence[tuple[str, int]], what: str) -> Markup:
    """Counts as horizontal bars with their numbers."""
    most = max((count for _, count in values), default=1) or 1
    rows = join(
        Markup(
            '<tr><th scope="row">{}</th><td class="number">{}</td><td class="bar"><span style="width:{:.1f}%"></span></td></tr>'
        ).format(name, f"{count:,}", 100 * count / most)
        for name, count in values
    )
    return Markup(
        '<div class="wide" tabindex="0" role="region" aria-label="{0}"><table class="bars"><caption>{0}</caption><tbody>{1}</tbody></table></div>'
    ).format(what, rows)


# ---------------------------------------------------------------- curves

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 220, 52, 14, 14, 34
POINTS = 300  # of a curve that are drawn


def curve(title: str, points: Sequence[tuple[int, float]], percent: bool = False, until: int = 0) -> Markup:
    """A metric over optimiser steps, 0 to `until` or its last, as inline SVG in the page's colours; what it shows is said in words too."""
    known = sorted((step, value) for step, value in points if math.isfinite(value))
    odd = min((step for step, value in points if not math.isfinite(value)), default=None)
    lost = (
        Markup("")
        if odd is None
        else text(f"{title}: not a number at step {odd:,}{' and others' * (len(points) > len(known) + 1)}", "warning")
    )
    if not known:
        return lost
    scale = 100 if percent else 1
    shown = _thinned([(step, scale * value) for step, value in known])
    low, high = min(value for _, value in shown), max(value for _, value in shown)
    ticks = [tick for tick in nice(low, high) if not percent or 0 <= tick <= 100]
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    first, last = 0, max(until, shown[-1][0], 1)

    def x(step: float) -> float:
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    begin, end = (f"{shown[place][1]:.1f} %" if percent else f"{shown[place][1]:.4g}" for place in (0, -1))
    said = f"{title}: {begin} at step {shown[0][0]:,}, {end} at step {shown[-1][0]:,}"
    grid = join(
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
        ).format(LEFT, WIDTH - RIGHT, y(tick), y(tick), LEFT - 6, y(tick) + 4, f"{tick:.4g}")
        for tick in ticks
    )
    steps = join(
        Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(x(step), HEIGHT - 16, side, f"{step:,}")
        for step, side in ((first, "start"), (last, "end"))
    )
    path = " ".join(f"{'M' if i == 0 else 'L'}{x(step):.1f} {y(value):.1f}" for i, (step, value) in enumerate(shown))
    dots = join(
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.2"/>').format(x(s), y(v))
        for s, v in (shown if len(shown) < 15 else shown[-1:])
    )
    return Markup(
        '<figure class="curve"><figcaption>{0}<b>{1}</b></figcaption><svg viewBox="0 0 {2} {3}" role="img" aria-label="{4}">'
        '<title>{4}</title>{5}{6}<text x="{7}" y="{8}" text-anchor="middle">optimiser steps</text><path class="line" d="{9}"/>{10}</svg>{11}</figure>'
    ).format(title, end, WIDTH, HEIGHT, said, grid, steps, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, path, dots, lost)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Means of neighbours, POINTS of them at most; the last point as it is."""
    size = -(-len(points) // POINTS)
    if size == 1:
        return [(step, value) for step, value in points]
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    means = [(sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts]
    return [points[0], *means[1:-1], points[-1]]


def nice(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `count` of them."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(each * unit for each in (1, 2, 2.5, 5, 10) if each * unit >= raw * 0.999)
    return [place * step for place in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]
