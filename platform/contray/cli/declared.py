"""What files declare, read and not run: names of methods, presets and keys without torch, for completion and for a mistyped option."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENGINE = Path(__file__).parents[1]
SWITCH = ("true", "false")
PARTS = {"eval": "evaluation", "backbone": "model", "data": "data"}  # sections with keys of plug-ins: the folder of these


def methods() -> list[str]:
    """The names of `contray methods`."""
    return _named("methods")


def spaces() -> list[str]:
    """The names of `contray spaces`."""
    return [name for name in _named("tune_spaces") if not _is_study(name)]


def studies() -> list[str]:
    """The names of `contray studies`."""
    return [name for name in _named("tune_spaces") if _is_study(name)]


def _is_study(name: str) -> bool:
    """Of a file of tune_spaces/ alone: one that is installed otherwise counts as a space, until it is loaded."""
    return next(_assigned(ENGINE / "tune_spaces" / f"{name}.py", "CLAIM"), None) is not None


def presets(method: str) -> list[str]:
    """The presets of a method; of a name that is none, those of all."""
    if file := _file(method):
        return _names_in(file, "PRESETS")
    return sorted({preset for name in methods() for preset in presets(name) if _file(name)})


def evaluations() -> list[str]:
    """The names of `contray evaluations`."""
    files = sorted((ENGINE / "evaluation").glob("[!_]*.py"))
    own = (path.stem for path in files if any(isinstance(each, ast.Constant) for each in _assigned(path, "ABOUT")))
    return sorted({*own, *_entries("evaluations", *sys.path)})


def keys(method: str = "") -> dict[str, tuple[str, ...]]:
    """Every dotted key with its values where they are a few words; method.* and views.* where `method` is a method's name or file."""
    return {key: choices for key, (choices, _) in _declared(method).items()}


def _declared(method: str) -> dict[str, tuple[tuple[str, ...], str]]:
    """Every dotted key: its values where they are a few words, its help."""
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    for section, kind, _ in _fields(ENGINE / "config" / "tree.py", "RunConfig"):
        if section == "seed":
            found[section] = (), "seed of everything random"
        elif isinstance(kind, ast.Name):
            found |= _keys(section, ENGINE / "config" / "tree.py", kind.id)
        for path in sorted((ENGINE / PARTS[section]).glob("[!_]*.py")) if section in PARTS else ():
            found |= _keys(f"{section}.{path.stem}", path, "Config")
    if file := _file(method):
        found |= _keys("method", file, "Config")
        for view in _names_in(file, "VIEWS"):
            found |= _keys(f"views.{view}", ENGINE / "methods" / "_base.py", "View")
    return found


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation's file declares. defaults: of its own keys, None where they are no plain values."""

    name: str
    prefix: str
    about: str
    title: str
    year: int
    url: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    defaults: Mapping[str, Any]


def evaluation(name: str) -> Evaluation | None:
    """A built-in evaluation; None for any other."""
    path = ENGINE / "evaluation" / f"{name}.py"
    if name not in evaluations() or not path.is_file():
        return None
    paper = next(_assigned(path, "PAPER"))
    assert isinstance(paper, ast.Call)
    title, year, url = (ast.literal_eval(each) for each in [*paper.args, *(word.value for word in paper.keywords)])
    about, needs, takes = (ast.literal_eval(next(_assigned(path, each), ast.Tuple([]))) for each in ("ABOUT", "NEEDS", "TAKES"))
    defaults = {field: _plain(_argument(given, 0)) for field, _, given in _fields(path, "Config")}
    return Evaluation(name, f"eval.{name}", about, title, year, url, needs, takes, defaults)


def helps(method: str = "", own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The help of each of `keys(method)`, with its unit; own: files of one's own parts by the prefix of their keys."""
    parts = [_keys(prefix, Path(file).expanduser(), "Config") for prefix, file in (own or {}).items()]
    return {key: told for found in (*parts, _declared(method)) for key, (_, told) in found.items()}


def method_of(space: str) -> str:
    """The method that a search space is over."""
    path = Path(space).expanduser() if space.endswith(".py") else ENGINE / "tune_spaces" / f"{space}.py"
    return str(_plain(next(_assigned(path, "METHOD"), None)) or "")


def _named(folder: str) -> list[str]:
    return sorted({*(path.stem for path in (ENGINE / folder).glob("[!_]*.py")), *_entries(folder, *sys.path)})


@functools.cache
def _entries(group: str, *path: str) -> list[str]:
    """Of the packages on the path: `registry` has them with what they lead to."""
    from importlib.metadata import entry_points

    return [entry.name for entry in entry_points(group=f"contray.{group}")]


def _file(method: str) -> Path | None:
    own = [ENGINE / "methods" / f"{method}.py", ENGINE / "methods" / "variants" / f"{method}.py"]
    paths = [Path(method).expanduser()] if method.endswith(".py") else own
    return next((path for path in paths if method and path.is_file()), None)


@functools.cache
def _body(path: Path) -> list[ast.stmt]:
    try:
        return ast.parse(path.read_text()).body
    except (OSError, SyntaxError, ValueError):
        return []


def _fields(path: Path, name: str) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    """The annotated fields of a class, wherever a relative import has it from, with annotation and value; those of its bases first."""
    for node in _body(path):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for base in node.bases:
                yield from _fields(path, ast.unparse(base))
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield field.target.id, field.annotation, field.value
        elif isinstance(node, ast.ImportFrom):
            for true in (alias.name for alias in node.names if (alias.asname or alias.name) == name):
                if node.level:
                    yield from _fields(_module(path, node), true)
                elif node.module == "contray.methods" and true == "MethodConfig":
                    yield from _fields(ENGINE / "methods" / "_base.py", true)


def _module(path: Path, node: ast.ImportFrom) -> Path:
    place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
    found = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    own = ENGINE / "methods"  # a copy of a built-in file works anywhere
    return found if found.exists() else own / found.name


def _keys(prefix: str, path: Path, name: str) -> dict[str, tuple[tuple[str, ...], str]]:
    return {f"{prefix}.{field}": (_choices(kind), _help(given)) for field, kind, given in _fields(path, name)}


def _help(given: ast.expr | None) -> str:
    """What setting(default, help, unit=...) says."""
    unit = next((_plain(word.value) for word in given.keywords if word.arg == "unit"), "") if isinstance(given, ast.Call) else ""
    return f"{_plain(_argument(given, 1)) or ''}{f' [{unit}]' if unit else ''}"


def _argument(given: ast.expr | None, place: int) -> ast.expr | None:
    return given.args[place] if isinstance(given, ast.Call) and len(given.args) > place else None


def _plain(node: ast.expr | None) -> Any:
    """The value of a literal; None where it is none."""
    try:
        return ast.literal_eval(node) if node else None
    except (ValueError, TypeError):
        return None


def _choices(kind: ast.expr) -> tuple[str, ...]:
    if isinstance(kind, ast.Name) and kind.id == "bool":
        return SWITCH
    if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "Literal":
        return tuple(
            each.value for each in ast.walk(kind.slice) if isinstance(each, ast.Constant) and isinstance(each.value, str)
        )
    return ()


def _names_in(path: Path, export: str) -> list[str]:
    """The names that a dictionary at the top of a file is written with."""
    found = next(_assigned(path, export), None)
    keys = found.keys if isinstance(found, ast.Dict) else []
    return [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]


def _assigned(path: Path, export: str) -> Iterator[ast.expr]:
    for node in _body(path):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == export:
            yield node.value
