"""Search spaces and studies as files: which there are, and what each space must define."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ..errors import UserError, nearest
from .registry import find, name_code, names

# what a space may define besides
FURTHER = (
    ("SAMPLES", int, "a whole number of trials, at least 1"),
    ("BASE", Mapping, "a dictionary of keys and values"),
    ("SCHEDULER", str, "the name of a scheduler"),
)


def space_names() -> list[str]:
    """`names` of the search spaces."""
    return [name for name in names("space") if not is_study(find("space", name))]


def study_names() -> list[str]:
    """`names` of the studies."""
    return [name for name in names("space") if is_study(find("space", name))]


def is_study(module: ModuleType) -> bool:
    """Whether a file of tune_spaces/ is a study: it makes a claim."""
    return hasattr(module, "CLAIM")


def load_space(name: str) -> ModuleType:
    """A search space by its name, or by the path of a .py file: the module with ABOUT, BASE and SPACE."""
    module = _space(name, "space", space_names)
    if is_study(module):
        raise UserError(f"space {name}: is a study: contray study {name}")
    check_space(name, module)
    return module


def study_file(name: str) -> ModuleType:
    """The file of a study by its name, or by the path of a .py file."""
    return _space(name, "study", study_names)


def _space(name: str, called: str, known: Callable[[], list[str]]) -> ModuleType:
    name_code(name)  # no file names a space: whoever calls this has it from the user
    if not name.endswith(".py") and name not in names("space"):
        raise UserError(f"{called} {name!r} is not known; {nearest(name, known())} (a path to a .py file works too)")
    try:
        return find("space", name)
    except UserError as error:
        if called == "space" or not str(error).startswith("space "):
            raise
        raise UserError(f"{called}{str(error).removeprefix('space')}") from None


def check_space(name: str, module: ModuleType) -> None:
    """Raises UserError where the file lacks something, or its domains are none that anything can be drawn from."""
    for export in ("ABOUT", "METHOD", "SPACE"):
        if not hasattr(module, export):
            raise UserError(f"space {name}: the file must define {export}; see tune_spaces/simclr.py for the form")
    if not isinstance(module.SPACE, Mapping) or not module.SPACE:
        raise UserError(f"space {name}: SPACE must be a dictionary of keys and what they are drawn from, and name one at least")
    for key, domain in module.SPACE.items():
        if not _drawable(domain):
            ways = "tune.choice([...]), tune.grid_search([...]) or a range such as tune.loguniform(low, high)"
            raise UserError(f"space {name}: {key}: got {type(domain).__name__} {domain!r:.60}, must be {ways}")
        lower, upper = getattr(domain, "lower", None), getattr(domain, "upper", None)
        if lower is not None and upper is not None and not lower < upper:
            raise UserError(
                f"space {name}: {key}: got a range of {lower:g} to {upper:g}, must run from the lower end to the higher one"
            )
    for export, kind, words in FURTHER:
        value = getattr(module, export, None)
        if hasattr(module, export) and (
            not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 1)
        ):
            raise UserError(f"space {name}: {export} is {value!r:.60}, must be {words}")


def _drawable(domain: Any) -> bool:
    """Whether this is a grid, a choice or a range of Ray Tune's."""
    listed = domain.get("grid_search") if isinstance(domain, Mapping) else getattr(domain, "categories", None)
    if listed is not None:
        return isinstance(listed, Sequence) and not isinstance(listed, str) and len(listed) > 0
    ends = (getattr(domain, "lower", None), getattr(domain, "upper", None))
    return all(isinstance(end, (int, float)) and math.isfinite(end) for end in ends)
