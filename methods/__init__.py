"""The science: one file per method, pure torch. The file's name is the method's name; files that start with `_` are shared parts.

Its name is `contray.methods` (platform/contray/methods leads here). Where the repository's root is on the path, `methods.simclr` is the same module.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
    from ._norms import BatchNorm
    from ._parts import mlp, normalize
    from ._ranks import gather, total, world_size

# What a file of one's own imports from here
_LIES = {"BatchNorm": "_norms", "mlp": "_parts", "normalize": "_parts"} | dict.fromkeys(
    ("gather", "total", "world_size"), "_ranks"
)
__all__ = [
    "Batch",
    "BatchNorm",
    "Clock",
    "Method",
    "MethodConfig",
    "Paper",
    "Preset",
    "Reps",
    "View",
    "gather",
    "mlp",
    "normalize",
    "setting",
    "total",
    "world_size",
]


def __getattr__(name: str) -> Any:
    """The interface is imported when it is first used: to list the methods needs no torch."""
    if name in __all__:
        return getattr(importlib.import_module(f".{_LIES.get(name, '_base')}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "methods":

    class _Alias(MetaPathFinder, Loader):
        """`methods.NAME` is `contray.methods.NAME`: were it loaded twice, its classes would not be each other's."""

        def find_spec(self, fullname, path=None, target=None):
            return ModuleSpec(fullname, self) if fullname.startswith("methods.") else None

        def exec_module(self, module):
            sys.modules[module.__name__] = importlib.import_module(f"contray.{module.__name__}")

    sys.meta_path.insert(0, _Alias())
