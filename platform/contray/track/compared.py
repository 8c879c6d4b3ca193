"""A comparison as tables: every number in per cent where it is a share, rows by their numbers where they come again."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..tables import SHARES, Table

if TYPE_CHECKING:
    from .comparing import Comparison, Row, Spread
    from .significance import Difference

MAIN = {
    "knn_top1": "k-NN\n%", "knn_gain": "gain", "linear_top1": "linear\n%", "linear_gain": "gain", "pixels_linear_top1": "pixels\n%",
}  # fmt: skip
HELD_OUT = {"knn_val_top1": "k-NN\nheld out %", "linear_val_top1": "linear\nheld out %"}
SEVERAL = 2  # evaluations from which they have a table of their own
BESIDE = 4  # rows of a comparison that stand beside each other as columns
VALUE = 60  # characters of a setting
MOST = 10.0  # of a share: what is beyond is none, and is written as a number
LESS = ("loss", "alignment", "uniformity", "minutes", "seconds")  # ends of the names of metrics of which less is better


def tables_of(found: Comparison, by: str = "") -> list[Table]:
    """by: "runs" (all metrics as columns), "evaluations" (a table of methods and evaluations), or empty: as there are few or several."""
    matrix = by == "evaluations" or (by != "runs" and len(found.further) >= SEVERAL)
    made = [_rows(found, () if matrix else found.further)]
    made += _settings(found)
    made += _evaluations(found) if matrix else []
    return made + _differences(found)


def cell(name: str, spread: Spread | None, seeds: int = 0) -> str:
    """A metric over seeds: in per cent where it is a share, with its standard deviation where there are several; seeds: that there are, of which
    some may lack it.
    """
    if spread is None:
        return "-"
    share = name.endswith(SHARES) and abs(spread.mean) <= MOST
    sign = "+" if name.endswith("_gain") else ""
    value = f"{100 * spread.mean:{sign}.1f}" if share else f"{spread.mean:{sign}.4g}"
    if spread.std is not None and not name.startswith(("random_", "pixels_")) and not sign:
        value += f" ± {100 * spread.std:.1f}" if share else f" ± {spread.std:.2g}"
    return value + (f" (n={spread.n})" if seeds > spread.n else "")


def heading(name: str) -> str:
    """A metric as a column's head, over few characters."""
    words = name.removesuffix("_linear_top1") if name.startswith("pixels") else name.removesuffix("_top1")
    words = re.sub("^(linear|finetune|scratch|distill|crd|noisy_student|supervised)_", "\\1\n", words)
    words = re.sub("(detection|segmentation)_", "\\1\n", words)
    return f"{words}{' %' if name.endswith(SHARES) else ''}"


def family(row: Row) -> str:
    """Method, preset and data."""
    return f"{row.method} {row.preset}, {row.dataset}"


def _rows(found: Comparison, further: Sequence[str]) -> Table:
    has = {name for row in found.rows for name in row.metrics}
    heads = dict(MAIN) | {name: heading(name) for name in further}
    # next to test results they would only confuse
    if any(not row.metrics.keys() & {"knn_top1", "linear_top1"} for row in found.rows):
        heads |= HELD_OUT
    shown = [name for name in heads if name in has]
    alike = len({family(row) for row in found.rows}) == 1
    order = "best first, of the same test images" if _several(found) else "best first"
    title = f"{family(found.rows[0])}; {order}" if alike else order
    table = Table(title, "#", "run", *(heads[name] for name in shown), "seeds", "steps", left=(1,), dense=True)
    for number, row in enumerate(found.rows, 1):
        name = row.name if alike else f"{row.name}\n{family(row)}"
        if number > 1 and row.tests != found.rows[number - 2].tests:
            table.divide()
        numbers = (cell(each, row.metrics.get(each), row.seeds) for each in shown)
        table.add(str(number), name, *numbers, str(row.seeds), str(row.steps))
    notes = ["mean ± standard deviation over seeds; gain: points over the untrained encoder"]
    if any(row.seeds > each.n for row in found.rows for name in shown if (each := row.metrics.get(name))):
        notes.append("n: seeds that have such a number, where others have none")
    if found.against and not any(each.test for each in found.against):
        notes.append("one seed: no telling a difference from chance; contray train ... --seeds 3 makes more")
    if found.left_out:
        have = (
            "run has not ended or been evaluated and is"
            if found.left_out == 1
            else "runs have not ended or been evaluated and are"
        )
        notes.append(f"{found.left_out} {have} left out")
    table.caption = "\n".join(notes)
    return table


def _settings(found: Comparison) -> list[Table]:
    """Few keys stand as columns; many keys as rows, below the numbers of runs."""
    keys = found.differing
    title = "what they differ in"
    if not keys:
        return []
    if len(keys) <= BESIDE:
        table = Table(title, "#", *(key.replace(".", ".\n") for key in keys), left=range(1, 1 + len(keys)), dense=True)
        for number, row in enumerate(found.rows, 1):
            table.add(str(number), *(_short(row.differs.get(key, "-")) for key in keys))
        return [table]
    made = []
    for first in range(0, len(found.rows), BESIDE):
        part = found.rows[first : first + BESIDE]
        numbers = (f"#{number}" for number in range(first + 1, first + 1 + len(part)))
        table = Table(title, "setting", *numbers, left=range(1 + len(part)), dense=True)
        for key in keys:
            if any(key in row.differs for row in part):
                table.add(key, *(_short(row.differs.get(key, "-")) for row in part))
        made += [table] if table.rows else []
    return made


def _short(text: str) -> str:
    return text if len(text) <= VALUE else f"{text[: VALUE // 2]}…{text[-VALUE // 2 :]}"


def _evaluations(found: Comparison) -> list[Table]:
    """Methods and evaluations: an evaluation in each row, the runs by their numbers as columns."""
    has = {name for row in found.rows for name in row.metrics}
    names = [name for name in (*(name for name in MAIN if not name.endswith("_gain")), *HELD_OUT, *found.further) if name in has]
    title = f"evaluations; *: the best {'of the same test images' if _several(found) else 'of all runs'}"
    made = []
    for first in range(0, len(found.rows), BESIDE):
        part = found.rows[first : first + BESIDE]
        numbers = (f"#{first + i}" for i in range(1, 1 + len(part)))
        table = Table(title, "evaluation", *numbers, dense=True)
        for name in names:
            if any(name in row.metrics for row in part):
                table.add(_evaluation(name), *(_starred(name, row, found.rows) for row in part))
        made.append(table)
    return made


def _several(found: Comparison) -> bool:
    """Whether there are rows of different test images."""
    return len({row.tests for row in found.rows}) > 1


def _evaluation(name: str) -> str:
    return name.removesuffix("_top1").replace("_", " ") + (", %" if name.endswith(SHARES) else "")


def _starred(name: str, row: Row, rows: Sequence[Row]) -> str:
    """A metric of a row, with a star where it is the best of the rows of the same test images, unless all of them have the same."""
    spread = row.metrics.get(name)
    others = [each.metrics[name].mean for each in rows if name in each.metrics and each.tests == row.tests]
    best = (min if name.endswith(LESS) else max)(others, default=math.nan)
    return cell(name, spread, row.seeds) + (
        "*" if spread and spread.mean == best and (len(others) == 1 or len({*others}) > 1) else " "
    )


def _differences(found: Comparison) -> list[Table]:
    """A table for each set of test images whose rows have seeds enough for a test."""
    each = [[one for one in found.against if one.best == best] for best in dict.fromkeys(one.best for one in found.against)]
    return [_behind(beside) for beside in each if any(one.test for one in beside)]


def _behind(found: Sequence[Difference]) -> Table:
    """Rows of the same test images beside the best of them."""
    metric, best = found[0].metric, found[0].best
    scale, unit = (100, "points") if metric.endswith(SHARES) else (1, metric)
    table = Table(
        f"behind #{best} in {_evaluation(metric).removesuffix(', %')}, over seeds", "#", unit, "95 % interval", "p", "in words",
        left=(4,), dense=True,
    )  # fmt: skip
    for each in found:
        interval = "-" if each.low is None or each.high is None else f"{scale * each.low:.1f} to {scale * each.high:.1f}"
        p = "-" if each.p is None else "<0.001" if each.p < 0.001 else f"{each.p:.3f}"
        table.add(str(each.row), f"{scale * each.mean:.1f}", interval, p, each.words)
    how = {"paired": "paired by seed", "Welch": "Welch's test"}
    tests, pairs = sorted({each.test for each in found} - {""}), math.comb(len(found) + 1, 2)
    corrected = f"; p corrected for all {pairs} pairs (Holm), each interval of its pair alone" if pairs > 1 else ""
    table.caption = " or ".join(how[test] for test in tests) + corrected
    return table
