"""The points that MLflow had not taken when a run ended, in one file of the run's folder, for `contray sync`.

While a run trains its checkpoints carry them; the last points, those of the verdict, come after the last checkpoint.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

from ..storage import sealed
from ..storage.folder import Storage
from ..track import MetricLog, Point

SPOOL = "unsent.json"


def close(log: MetricLog, storage: Storage, timeout_s: float) -> int:
    """Send what can be sent within `timeout_s` seconds, keep the rest in the spool; the number of points not sent."""
    unsent = log.close(timeout_s)
    try:
        put(storage, log.pending())
    except OSError as error:
        warnings.warn(
            f"{unsent} unsent points could not be kept in {storage.address}/{SPOOL} ({error}); the newest checkpoint and the verdict have their values",
            stacklevel=2,
        )
    return unsent


def put(storage: Storage, points: Iterable[Point]) -> None:
    """Keep these points in place of those that were kept; without any, no file is left."""
    # JSON knows no NaN
    rows = [[name, None if math.isnan(value) else value, timestamp, step] for name, value, timestamp, step in points]
    if rows:
        sealed.write(storage, SPOOL, {"points": rows})
    elif SPOOL in storage.names():
        storage.remove(SPOOL)


def get(storage: Storage) -> list[Point]:
    """The points kept there. Raises Damaged where they are not what was kept."""
    found = sealed.read(storage, SPOOL, {"points": list}, needed=("points",)) or {"points": []}
    try:
        return [
            (str(name), math.nan if value is None else float(value), int(timestamp), int(step))
            for name, value, timestamp, step in found["points"]
        ]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise sealed.Damaged(f"{storage.address}/{SPOOL} is damaged (no points)") from None
