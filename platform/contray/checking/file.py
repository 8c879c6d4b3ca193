"""What a method's file declares, before anything is computed: exports, config, presets, what it imports, what it refuses."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ..config import RunConfig
from ..config.registry import IMPORTED, MethodFile
from ..data.views import check_shapes
from ..errors import UserError
from ..methods._base import Method
from ..model import laws
from .findings import Wrong
from .places import line_of, raised

LABELS = {"label", "labels", "target", "targets", "y", "class"}  # columns that no view may want
OUT_OF_REACH = (
    "ray",
    "mlflow",
    "contray.data",
    "contray.evaluation",
    "contray.training",
    "sklearn.datasets",
    "torchvision.datasets",
)


def presets(name: str, file: MethodFile) -> list[Wrong]:
    """Every preset resolves on the recipe, with views that can be drawn."""
    found = []
    for preset in file.presets if name != IMPORTED else ():
        try:
            check_shapes(RunConfig.make(name, preset=preset).views)
        except UserError as error:
            where = line_of(name, "PRESETS") if preset != "paper" else line_of(name, "RECIPE")
            found.append(
                Wrong(
                    f"preset {preset}: {error}",
                    "RECIPE and the settings of PRESETS are dotted keys (contray train --help-all)",
                    where,
                )
            )
    return found


def labels(name: str, path: str, config: RunConfig) -> list[Wrong]:
    """Nothing of the file leads to labels: no view of their column, no import of data, of evaluations or of what runs it."""
    column = config.data.label_column
    found = [
        Wrong(
            f"the view {key} draws the column {view.source}, which holds labels",
            "labels never reach pretraining",
            line_of(path, "VIEWS"),
        )
        for key, view in config.views.items()
        if view.source in LABELS or view.source == column
    ]
    for imported, line in _imports(path):
        if any(imported == each or imported.startswith(f"{each}.") for each in OUT_OF_REACH):
            words = f"imports {imported}: a method is pure torch, given views and sample ids, and has no way to labels"
            found.append(Wrong(words, "take what it needs as a view (VIEWS names the column) or as a key of Config", line))
    return found


def _imports(path: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (
                (f"{node.module}.{alias.name}" if node.module == "contray" else str(node.module), node.lineno)
                for alias in node.names
            )


def refusals(path: str, config: RunConfig, method: type[Method]) -> list[Wrong]:
    """`check` takes or refuses data and batches of any size, and what it raises begins with a field's name."""
    line, fields = line_of(path, "check"), {spec.name for spec in dataclasses.fields(config.method)}
    for samples, batch in ((2, 2), (13, 13), (64, 16), (2000, 13), (50_000, 8192)):
        try:
            method.check(config.method, samples=samples, batch=batch, views=laws.views_of(config))
        except ValueError as error:
            field, told, _ = str(error).partition(": ")
            if not told or field not in fields:
                mend = f"raise ValueError('FIELD: got ..., must be ...') with one of {', '.join(sorted(fields - {'name', 'preset'})) or 'its fields'}"
                return [
                    Wrong(
                        f"check(samples={samples}, batch={batch}) refuses by {str(error)!r}, which begins with no field of Config",
                        mend,
                        line,
                    )
                ]
        except (Exception, SystemExit) as error:
            told_of = raised(error, path)
            words = f"check(samples={samples}, batch={batch}) ends in {told_of.words}, not in ValueError('FIELD: ...')"
            return [Wrong(words, "def check(cls, config, *, samples, batch, views)", told_of.line or line)]
    return []


def negatives(path: str, method: Method, declared: str) -> list[Wrong]:
    """A count of negatives that goes with what PAPER says of them."""
    line, found = line_of(path, "negatives"), {}
    for batch in (16, 256):
        try:
            found[batch] = method.negatives(batch)
        except (Exception, SystemExit) as error:
            return [
                Wrong(
                    f"negatives({batch}) ends in {raised(error, path).words}",
                    "it gives a whole number",
                    raised(error, path).line or line,
                )
            ]
    counts = list(found.values())
    if not all(isinstance(count, int) and count >= 0 for count in counts) or counts[1] < counts[0]:
        mend = "a whole number, 0 where there are none, that does not fall with a larger batch"
        return [Wrong(f"negatives of batches of 16 and 256 are {counts[0]} and {counts[1]}", mend, line)]
    if (declared == "none") != (counts[1] == 0):
        mend = 'PAPER.negatives is "none", "batch", "queue", "memory bank", ...; negatives(batch) is how many each anchor meets'
        return [
            Wrong(
                f"PAPER says negatives {declared!r}, and negatives(256) gives {counts[1]}", mend, line or line_of(path, "PAPER")
            )
        ]
    return []
