"""contray: self-supervised visual representation learning on Ray, elastic and exact.

import contray
result = contray.train("simclr", {"data.source": "photos/", "train.epochs": 20})
result                                    # the table of what training bought
encoder = contray.load(result)            # encoder(images) -> (n, D) features
contray.plot("neighbours", result)        # a picture, shown in a notebook
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        check,
        check_data,
        compare,
        curate,
        doctor,
        embed,
        evaluate,
        export,
        load,
        plot,
        register,
        report,
        study,
        sync,
        train,
        tune,
    )
    from .config import RunConfig
    from .errors import ConfigError, DataError, UserError

_ROOMS = {"ConfigError": "errors", "DataError": "errors", "UserError": "errors", "RunConfig": "config"}  # the others are api's

__all__ = [
    "ConfigError",
    "DataError",
    "RunConfig",
    "UserError",
    "check",
    "check_data",
    "compare",
    "curate",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "load",
    "plot",
    "register",
    "report",
    "study",
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

    if name in __all__:
        return getattr(importlib.import_module(f".{_ROOMS.get(name, 'api')}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is offered, before it was used too."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
