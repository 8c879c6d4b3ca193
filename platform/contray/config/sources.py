"""The files that a part of one's own is made of: its own, and those of one's own that it imports."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType

NOT_OWN = ("contray", "methods", "tune_spaces")
PYTHON = tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")})
INSTALLED = {"site-packages", "dist-packages"}  # folders, of this environment or of one below it


def files(module: ModuleType) -> dict[str, Path]:
    """By module: a part's file and, wherever they import each other, those beside it: neither Python's, nor contray's, nor of other installed
    packages than its own. What is imported by a computed name is not seen.
    """
    home = "" if module.__name__.startswith("contray.") else module.__name__.partition(".")[0]
    found: dict[str, Path] = {}
    left = [module]
    while left:
        each = left.pop()
        if each.__name__ in found:
            continue
        found[each.__name__] = path = Path(each.__file__ or "").resolve()
        names = dict.fromkeys(_imported(path, each.__package__ or ""))
        left += [sys.modules[name] for name in names if name in sys.modules and _own(sys.modules[name], home)]
    return found


def digest(module: ModuleType) -> str:
    """Of the contents of these files."""
    first, *others = files(module).items()
    digests = [hashlib.sha256(path.read_bytes()) for _, path in (first, *sorted(others))]
    for each in digests[1:]:
        digests[0].update(each.digest())
    return digests[0].hexdigest()[:24]


def computed(module: ModuleType, package: str, told: Collection[str]) -> str:
    """A digest of what a module computes and those of `package` that it imports, without comments, docstrings and what is assigned to names in `told`.

    Modules whose names begin with _ are left out, as everything else that many share.
    """
    found, left = dict[str, str](), [module]
    while left:
        each = left.pop()
        if each.__name__ not in found:
            path = Path(each.__file__ or "")
            found[each.__name__] = _bare(ast.parse(path.read_text(encoding="utf-8")), told)
            names = [name for name in _imported(path, each.__package__ or "") if name.startswith(f"{package}.")]
            left += [sys.modules[name] for name in names if name in sys.modules and _is_file(sys.modules[name])]
    own = found.pop(module.__name__)
    return hashlib.sha256("\n".join([own, *sorted(found.values())]).encode()).hexdigest()


def _is_file(module: ModuleType) -> bool:
    """Whether a module is a file that stands for itself."""
    return not hasattr(module, "__path__") and not module.__name__.rpartition(".")[2].startswith("_")


def _bare(tree: ast.Module, told: Collection[str]) -> str:
    tree.body = [
        each
        for each in tree.body
        if not (isinstance(each, ast.Assign) and all(isinstance(name, ast.Name) and name.id in told for name in each.targets))
    ]
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # pyright: ignore[reportAttributeAccessIssue]
                each for each in body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ]
    return ast.unparse(tree)


def _imported(path: Path, package: str) -> Iterator[str]:
    """The modules that a file imports, wherever in it, with the packages that they are in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                base = (
                    importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                    if node.level
                    else str(node.module)
                )
            except ImportError:
                continue
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _own(module: ModuleType, home: str) -> bool:
    top = module.__name__.partition(".")[0]
    file = getattr(module, "__file__", None) or ""
    if top in NOT_OWN or not file.endswith(".py"):
        return False
    path = Path(file).resolve()
    return top == home or not (INSTALLED & set(path.parts) or any(path.is_relative_to(folder) for folder in PYTHON))
