"""contray: self-supervised visual representation learning on Ray, elastic and exact.

import contray
config = contray.RunConfig.make("simclr", {"train.epochs": 20})
result = contray.train(config)        # result.metrics, result.run_id, result.checkpoint
encoder = contray.load(result.run_id) # encoder(images) -> features
contray.plot("neighbours", run=result.run_id)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import evaluate, load, plot, sync, train, tune
    from .config import RunConfig
    from .errors import ConfigError, DataError, UserError

__all__ = [
    "ConfigError",
    "DataError",
    "RunConfig",
    "UserError",
    "evaluate",
    "load",
    "plot",
    "sync",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Heavy modules are imported when they are first used: `contray --help` must not wait for torch."""
    import importlib

    for module in ("errors", "config", "api"):
        if (
            name
            in {
                "errors": ("ConfigError", "DataError", "UserError"),
                "config": ("RunConfig",),
                "api": ("evaluate", "load", "plot", "sync", "train", "tune"),
            }[module]
        ):
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
