"""An MLflow store in a file: made once in each process of the tests (MLflow takes seconds for it), copied for each test."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

from contray import track


def fresh(folder: Path) -> str:
    """The URI of the store in `folder`, an empty one where there was none."""
    place = folder / "mlflow.db"
    if not place.exists():
        place.write_bytes(_empty())
    return f"sqlite:///{place}"


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        track.client(f"sqlite:///{path}").search_experiments()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()
