"""contray.sync"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..training.syncing import Synced


def sync(
    runs: Sequence[str] = (), *, storage: str = "contray_runs", uri: str = "", code: str | Sequence[str] = (), again: bool = False
) -> list[Synced]:
    """Send what MLflow lacks of ended runs as `contray sync` does: of these (names or folders), or of all under `storage`."""
    from ..training.syncing import sync

    return sync(runs, storage=storage, uri=uri, code=code, again=again)
