"""contray.register"""

from __future__ import annotations

from ..errors import UserError


def register(name: str, run: str, *, uri: str = "") -> str:
    """Register a run's encoder under `name` in MLflow, as its champion where its linear_top1 is the best; what was done, in words."""
    from .. import track

    if not run:
        raise UserError("--register: only a run's encoder can be registered; give --run")
    uri = track.resolve_uri(uri)
    track.check(uri, exists=True)
    return track.register(uri, run, name)
