"""contray.load"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .named import encoder_of, named

if TYPE_CHECKING:
    from ..model.encoder import Encoder
    from .named import Run


def load(run: Run, *, uri: str = "", code: str | Sequence[str] = ()) -> Encoder:
    """The trained encoder of a run, with its evaluation transform.

        encoder = contray.load(result)  # or its id, its name, Path("contray_runs/NAME")
        features = encoder(["a.jpg", "b.jpg"])  # (2, D)

    run: an id or a name in MLflow, a run's folder, what `contray.train` gave back, or a folder that `contray.export` wrote as safetensors.
    uri: of MLflow; empty: MLFLOW_TRACKING_URI, else mlflow.db in this folder. code: your own .py files that it is made with.
    """
    return encoder_of(named(run, uri), uri, code)
