"""From a data source to batches of views. Everything here imports without Ray and MLflow."""

import os

# its import asks PyPI for newer versions otherwise, and waits where there is no network
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from .batches import EvalImages, GlobalBatches, check_views, loader
from .device import DeviceBatches, Renderer
from .order import holdout, part, permutation, window
from .recipe import uncovered
from .sources import announced, fingerprint, open_source, other_labels
from .splits import ArraySplit, BrokenImage, Encoded, EncodedSplit, Source, Split
from .statistics import moments

__all__ = [
    "ArraySplit",
    "BrokenImage",
    "DeviceBatches",
    "Encoded",
    "EncodedSplit",
    "EvalImages",
    "GlobalBatches",
    "Renderer",
    "Source",
    "Split",
    "announced",
    "check_views",
    "fingerprint",
    "holdout",
    "loader",
    "moments",
    "open_source",
    "other_labels",
    "part",
    "permutation",
    "uncovered",
    "window",
]
