"""Vectors that reference implementations gave, read from CONTRAY_GOLDEN or from tests/golden."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """`golden("knn")`: the arrays of knn.npz by name, freshly read, so that a test may write to its own."""
    folder = Path(os.environ.get("CONTRAY_GOLDEN") or Path(__file__).parents[1] / "golden")

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return read
