"""From a data source to batches of views. Everything here imports without Ray and MLflow."""

from .batches import EvalImages, GlobalBatches, check_views, loader
from .order import holdout, part, permutation
from .sources import Source, announced, fingerprint, open_source
from .splits import BrokenImage, Split

__all__ = [
    "BrokenImage",
    "EvalImages",
    "GlobalBatches",
    "Source",
    "Split",
    "announced",
    "check_views",
    "fingerprint",
    "holdout",
    "loader",
    "open_source",
    "part",
    "permutation",
]
