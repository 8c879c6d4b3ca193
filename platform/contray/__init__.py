"""contray: self-supervised visual representation learning on Ray, elastic and exact.

import contray
config = contray.RunConfig.make("simclr", {"train.epochs": 20})
result = contray.train(config)        # result.metrics, result.run_id, result.checkpoint
encoder = contray.load(result.run_id) # encoder(images) -> features
contray.plot("neighbours", run=result.run_id)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import embed, evaluate, export, load, plot, register, sync, train, tune
    from .config import RunConfig
    from .errors import ConfigError, DataError, UserError

_FACE = {
    "errors": ("ConfigError", "DataError", "UserError"),
    "config": ("RunConfig",),
    "api": ("embed", "evaluate", "export", "load", "plot", "register", "sync", "train", "tune"),
}

__all__ = [
    "ConfigError",
    "DataError",
    "RunConfig",
    "UserError",
    "embed",
    "evaluate",
    "export",
    "load",
    "plot",
    "register",
    "sync",
    "train",
    "tune",
]

for _link in ("methods", "tune_spaces"):
    if not os.path.isdir(os.path.join(os.path.dirname(__file__), _link)):
        raise ImportError(
            f"contray: {os.path.join(os.path.dirname(__file__), _link)} must be a link to the folder {_link}, and this checkout has none: "
            "run `git config core.symlinks true && git checkout -- platform` (Windows: in developer mode), clone instead of unpacking a zip, or install the wheel"
        )


def __getattr__(name: str) -> Any:
    """Heavy modules are imported when they are first used: `contray --help` must not wait for torch."""
    import importlib

    for module, names in _FACE.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
