"""What a linear probe takes for what, on images that training did not see.

Legend of shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from markupsafe import Markup

from ..tables import Table
from . import html

SHOWN, WORST, PAIRS = 20, 10, 15  # classes whose whole matrix is shown; of more classes the worst, and the most confused pairs


MIDDLE = 0.179  # luminance on which black and white are read equally well


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance of sRGB in [0, 1], as WCAG 2 has it (https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@dataclass(frozen=True)
class Confusion:
    """counts (C, C): of images of a class (row) those that the probe takes for another (column). on: which images, in words."""

    counts: np.ndarray
    classes: Sequence[str]
    fitted: int  # images that the probe was fitted on
    on: str

    @classmethod
    def of(cls, true: np.ndarray, told: np.ndarray, classes: Sequence[str], fitted: int, on: str) -> Confusion:
        """true, told: (N,) numbers of classes."""
        counts = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(counts, (true, told), 1)
        return cls(counts, classes, fitted, on)

    @cached_property
    def asked(self) -> np.ndarray:
        """(C,) images of each class."""
        return self.counts.sum(1)

    @property
    def top1(self) -> float:
        return float(np.trace(self.counts) / max(self.counts.sum(), 1))

    @cached_property
    def recall(self) -> np.ndarray:
        """(C,) share of each class that is told right; NaN where none was asked."""
        return np.where(self.asked > 0, np.diag(self.counts) / np.maximum(self.asked, 1), np.nan)

    def pairs(self) -> list[tuple[str, str, int, int]]:
        """(class, taken for, images, of how many), those taken for another most often first."""
        off = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
        places = [divmod(int(i), len(self.classes)) for i in order]
        return [(self.classes[a], self.classes[b], int(off[a, b]), int(self.asked[a])) for a, b in places if off[a, b]]

    def parts(self) -> list[Markup]:
        """As the page shows it."""
        words = (
            f"A linear probe fitted on {self.fitted:,} training images tells {100 * self.top1:.1f} % of {self.counts.sum():,} {self.on} right. "
            "It is smaller than the one of the result table, which sees all labels."
        )
        made = [html.text(words)]
        if len(self.classes) <= SHOWN:
            made.append(self._matrix())
        else:
            table = Table("classes that are told right least often", "class", "recall %", "images")
            known = [i for i in np.argsort(self.recall, kind="stable") if self.asked[i]][:WORST]
            for i in known:
                table.add(self.classes[int(i)], f"{100 * self.recall[i]:.0f}", str(self.asked[i]))
            made.append(html.table(table))
        if pairs := self.pairs():
            table = Table("most confused pairs", "class", "taken for", "images", left=(0, 1))
            for true, told, count, asked in pairs[: PAIRS if len(self.classes) > SHOWN else 5]:
                table.add(true, told, f"{count} of {asked}")
            made.append(html.table(table))
        return made

    def _matrix(self) -> Markup:
        """A cell's shade and its number both say the share of its row."""
        from matplotlib import colormaps

        heads = html.join(Markup('<th scope="col"><span>{0}</span></th>').format(name) for name in self.classes)
        rows = []
        for name, counts, asked, recall in zip(self.classes, self.counts, self.asked, self.recall, strict=True):
            cells = []
            for other, count in zip(self.classes, counts, strict=True):
                share = count / max(asked, 1)
                colour = colormaps["cividis"](share)[:3]
                red, green, blue = (round(255 * each) for each in colour)
                cells.append(
                    Markup('<td style="background:rgb({},{},{});color:{}" title="{} taken for {}: {} of {}">{}</td>').format(
                        red,
                        green,
                        blue,
                        "#fff" if luminance(colour) < MIDDLE else "#000",
                        name,
                        other,
                        count,
                        asked,
                        f"{100 * share:.0f}",
                    )
                )
            told = f"{100 * recall:.0f}" if asked else "-"
            rows.append(
                Markup('<tr><th scope="row">{}</th>{}<td class="recall">{}</td><td class="recall">{}</td></tr>').format(
                    name, html.join(cells), told, asked
                )
            )
        return Markup(
            '<div class="wide" tabindex="0" role="region" aria-label="confusion matrix"><table class="confusion"><caption>rows: the true class; columns: '
            'what the probe says; per cent of the row</caption><thead><tr><td></td>{}<th scope="col">recall %</th><th scope="col">images</th></tr></thead>'
            "<tbody>{}</tbody></table></div>"
        ).format(heads, html.join(rows))
