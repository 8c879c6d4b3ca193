"""contray.register"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UserError
from .named import named

if TYPE_CHECKING:
    from .named import Run


def register(name: str, run: Run, *, uri: str = "") -> str:
    """Register a run's encoder under `name` in MLflow, as its champion where its linear_top1 is the best; what was done, in words.

    contray.register("digits-encoder", result)
    """
    from .. import track

    found = named(run, uri) if run else None
    if found is None or not found.run_id:
        raise UserError("--register: only a run's encoder can be registered; give --run")
    uri = track.resolve_uri(uri or found.uri)
    track.check(uri, exists=True)
    return track.register(uri, found.run_id, name)
