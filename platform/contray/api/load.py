"""contray.load"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..config.registry import name_files

if TYPE_CHECKING:
    from ..model.encoder import Encoder


def load(run_id: str, *, uri: str = "", code: str | Sequence[str] = ()) -> Encoder:
    """The trained encoder of an MLflow run, with its evaluation transform. code: your own .py files that it is made with."""
    from .. import track
    from ..model.encoder import read_folder

    name_files(code)

    uri = track.resolve_uri(uri)
    track.check(uri, exists=True)
    return read_folder(track.fetch_encoder(uri, run_id))
