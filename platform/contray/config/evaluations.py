"""Evaluations as files: what each must define. What they are given and compute lies above, in `evaluation`."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .registry import check_exports, find, names, part_name


@dataclass(frozen=True)
class Citation:
    """Where an evaluation comes from."""

    title: str
    year: int
    url: str


FORM = "docs/examples/nearest_centroid.py"
EXPORTS = {"ABOUT": str, "PAPER": Citation, "NEEDS": tuple, "METRICS": tuple, "Config": type}


@dataclass(frozen=True)
class EvaluationFile:
    """The fixed exports of an evaluation's file; see contray.evaluation._base. where: how messages call it."""

    name: str
    about: str
    paper: Citation
    needs: tuple[str, ...]
    metrics: tuple[str, ...]
    config: type
    evaluate: Callable[[Any, Any], Mapping[str, float]]
    takes: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """Of its keys: eval.finetune."""
        return f"eval.{part_name(self.name)}"


def evaluation_names() -> list[str]:
    """The built-in evaluations and those of installed packages (entry points of the group `contray.evaluations`)."""
    return names("evaluation")


def load_evaluation(name: str) -> EvaluationFile:
    """An evaluation by its name, or by the path of a .py file. Raises UserError naming the nearest ones or what the file lacks,
    ConfigError for code that the user did not name.
    """
    module = find("evaluation", name)
    check_exports(f"evaluation {name}", module, EXPORTS, FORM)
    for export in ("NEEDS", "METRICS", "TAKES"):
        words = getattr(module, export, ())
        if not isinstance(words, tuple) or not all(isinstance(word, str) for word in words):
            raise UserError(f"evaluation {name}: {export} is {words!r}, must be a tuple of texts")
    if not _takes_two(getattr(module, "evaluate", None)):
        raise UserError(f"evaluation {name}: the file must define evaluate(subject, options); see {FORM} for the form")
    return EvaluationFile(
        name,
        module.ABOUT,
        module.PAPER,
        module.NEEDS,
        module.METRICS,
        module.Config,
        module.evaluate,
        getattr(module, "TAKES", ()),
    )


def _takes_two(given: Any) -> bool:
    try:
        inspect.signature(given).bind(None, None)
    except TypeError:
        return False
    return True


def ranking(evaluations: Iterable[str], metric: str) -> EvaluationFile | None:
    """Of these evaluations the one that trials ranked on `metric` are measured by."""
    files = map(load_evaluation, evaluations)
    return next((file for file in files if any(fnmatch.fnmatchcase(metric, name) for name in file.metrics)), None)


def needing_labels(evaluations: Iterable[str]) -> list[str]:
    """Those that data without labels has no use for."""
    return [name for name in evaluations if "labels" in load_evaluation(name).needs]
