"""The commands that a verdict names: what would train a run longer, and what else to try."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from .. import data
from ..config import RunConfig
from ..config.registry import naming_again
from ..evaluation.common.verdict import Told
from ..methods._base import Method
from ..storage.folder import Storage
from .extend import extends_exactly


def advice(config: RunConfig, source: data.Source, method: Method, storage: Storage, name: str, collapse: str) -> Told:
    """What the verdict of a run in the folder `storage` needs to know besides its metrics."""
    folder = storage.address.rstrip("/")
    local = storage.local and Path(folder, "config.yaml").is_file()
    words = (
        [*naming_again(config), "--config", f"{folder}/config.yaml"]
        if local
        else [config.method.name, "--preset", config.method.preset, "--data.source", config.data.source]
    )
    same = shlex.join(["contray", "train", *words])
    steps = config.train.steps
    length = f"--train.steps {2 * steps}" if steps else f"--train.epochs {2 * config.train.epochs}"
    exact = extends_exactly(config, method, len(source.train))
    on = f" --track.name {shlex.quote(name or folder.rpartition('/')[2])} --train.extend exact" if exact else ""
    other = (
        f"--optim.lr {config.optim.lr / 3:.3g}"
        if collapse
        else f"--augment.strength {0.5 if config.augment.strength >= 1 else 1:g}"
    )
    labels = source.train.labels
    counts = () if labels is None else np.unique(labels[source.train.known], return_counts=True)[1].tolist()
    return Told(
        tested=source.tested,
        counts=counts,
        longer=f"{same}{on} {length}",
        next=f"{same} {other}",
        seeds=f"{same} --seeds 3",
        labels=f"contray eval knn linear --checkpoint {shlex.quote(folder)} --data.source LABELLED_FOLDER",
        collapse=collapse,
    )  # fmt: skip
