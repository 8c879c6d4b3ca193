"""Where methods and search spaces are found: the file's name is the name. The only place that knows of `methods` and `tune_spaces`."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError, UserError, nearest
from ..methods._base import Method, MethodConfig, Paper, Preset, View

EXPORTS = {"PAPER": Paper, "Config": type, "VIEWS": dict, "RECIPE": dict, "PRESETS": dict}

_named: dict[str, None] = {}  # absolute paths of files that the user named, in order

IMPORTED = "imported"  # what `contray import` writes; it trains nothing, so it is listed nowhere


@dataclass(frozen=True)
class MethodFile:
    """The fixed exports of a method's file."""

    name: str
    paper: Paper
    config: type[MethodConfig]
    views: Mapping[str, View]
    recipe: Mapping[str, Any]
    presets: Mapping[str, Preset]
    method: type[Method]


def method_names() -> list[str]:
    """The built-in methods and those of installed packages (entry points of the group `contray.methods`)."""
    return sorted({*_files("methods"), *(entry.name for entry in importlib.metadata.entry_points(group="contray.methods"))})


def space_names() -> list[str]:
    """The built-in search spaces and studies."""
    return sorted(_files("tune_spaces"))


def name_code(*words: str) -> None:
    """Note what the user named himself: on a command line, or as an argument of a function. Of these words the paths of .py files may run.

    A config that lies in a file (a checkpoint, an export, an artifact, a run.yaml) names code too, and its author may be anybody: such code
    runs only where it is noted here. Processes of a run are told by their driver.
    """
    _named.update((str(Path(word).expanduser().resolve()), None) for word in words if word.endswith(".py"))


def name_method(path: str) -> None:
    """`name_code` for an option that takes nothing but a file; empty: it was not given."""
    if path and not path.endswith(".py"):
        raise UserError(f"--method: got {path}, takes the path of your own .py file; a built-in method comes with the encoder")
    name_code(path)


def code_of(name: str) -> tuple[str, ...]:
    """What the processes of a run must be told with `name_code` so that they may load this method."""
    return (name,) if name.endswith(".py") else ()


def known_code(name: str) -> str:
    """The method that a config names, where it may run: a name, or a file that the user named, also from another folder.

    Raises ConfigError for any other file.
    """
    if not name.endswith(".py"):
        return name
    path = Path(name).expanduser().resolve()
    if str(path) in _named:
        return name
    namesakes = [each for each in _named if Path(each).name == path.name]
    if len(namesakes) == 1:
        return namesakes[0]
    raise ConfigError(
        "method.name",
        f"the config names the code {name}, and only code that you name yourself runs: "
        f"contray train {path.name} ..., --method {path.name} of the other commands, method= in Python",
    )


def load_method(name: str) -> MethodFile:
    """A method by its name, or by the path of a .py file. Raises UserError naming the nearest ones, ConfigError for code that the user did not name."""
    module = (
        importlib.import_module("contray.methods._imported")
        if name == IMPORTED
        else _load("method", "methods", name, method_names())
    )
    for export, kind in EXPORTS.items():
        if not isinstance(getattr(module, export, None), kind):
            raise UserError(f"method {name}: the file must define {export} ({kind.__name__}); see methods/simclr.py for the form")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(f"method {name}: the file must define exactly one subclass of Method, it defines {len(found)}")
    if "paper" not in module.PRESETS:
        raise UserError(f"method {name}: PRESETS must hold 'paper'")
    return MethodFile(name, module.PAPER, module.Config, module.VIEWS, module.RECIPE, module.PRESETS, found[0])


def load_space(name: str) -> ModuleType:
    """A search space by its name, or by the path of a .py file: the module with ABOUT, BASE and SPACE."""
    name_code(name)  # no file names a space: whoever calls this has it from the user
    module = _load("space", "tune_spaces", name, space_names())
    for export in ("ABOUT", "METHOD", "SPACE"):
        if not hasattr(module, export):
            raise UserError(f"space {name}: the file must define {export}; see tune_spaces/simclr.py for the form")
    return module


def _files(package: str) -> list[str]:
    return [
        info.name
        for info in pkgutil.iter_modules(importlib.import_module(f"contray.{package}").__path__)
        if not info.name.startswith("_")
    ]


def _load(what: str, package: str, name: str, known: list[str]) -> ModuleType:
    if name.endswith(".py"):
        return _load_path(what, package, Path(name))
    if name in _files(package):
        return importlib.import_module(f"contray.{package}.{name}")
    for entry in importlib.metadata.entry_points(group=f"contray.{package}"):
        if entry.name == name:
            return entry.load()
    raise UserError(f"{what} {name!r} is not known; {nearest(name, known)} (a path to a .py file works too)")


def _load_path(what: str, package: str, path: Path) -> ModuleType:
    """The module of a file, as if it lay in `package`: a copy of a built-in file works anywhere, with its `from ._base import ...` as it stands."""
    path = Path(known_code(str(path))).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{what} {str(path)!r}: there is no such file")
    importlib.import_module(f"contray.{package}")
    module_name = f"contray.{package}.contray_user_{path.stem.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a file of the user's own may do wrong
        sys.modules.pop(module_name, None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"line {lines[-1]}: " if lines else ""
        kind = "" if isinstance(error, SyntaxError | ImportError) else f"{type(error).__name__}: "
        said = " ".join(str(error).split())
        raise UserError(f"{what} {path}: it cannot be imported ({where}{kind}{said})") from None
    return module
