"""contray.export"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config.registry import name_files
from ..errors import UserError
from .load import load


def export(to: str, out: Path, *, run: str = "", checkpoint: str = "", uri: str = "", code: str | Sequence[str] = ()) -> Path:
    """Write an encoder for another library into the new folder `out`, as `contray export` does; the file of its weights."""
    from .. import track
    from ..exchange import exporting
    from ..exchange.cards import Origin
    from ..model.encoder import read_checkpoint

    if bool(run) == bool(checkpoint):
        raise UserError("name what to export: either --run RUN_ID or --checkpoint PATH")
    name_files(code)
    exporting.check(to, out)
    if checkpoint:
        return exporting.export_to(read_checkpoint(checkpoint), to, out, Origin(Path(checkpoint).name))
    trained = load(run, uri=uri)
    metrics, tags = track.attach(track.resolve_uri(uri), run).results()
    origin = Origin(f"MLflow run `{run}`", tags.get("contray.dataset", ""), tags.get("mlflow.source.git.commit", ""), metrics)
    return exporting.export_to(trained, to, out, origin)
