"""contray.export"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .named import encoder_of, named_one

if TYPE_CHECKING:
    from .named import Run


def export(
    to: str, out: str | Path, *, run: Run = "", checkpoint: str | Path = "", uri: str = "", code: str | Sequence[str] = ()
) -> Path:
    """Write an encoder for another library into the new folder `out`, with a model card; gives the file of its weights.

        contray.export("timm", "encoder", run=result)

    to: torchvision, timm (weights that load there), onnx, or safetensors (with heads, for contray).
    run: as `contray.load` takes it; checkpoint: a step-N.pt or a folder with some.
    """
    from .. import track
    from ..exchange import exporting
    from ..exchange.cards import Origin

    out = Path(out)
    if run or checkpoint:
        exporting.check(to, out)  # before a store is asked for a name
    found = named_one(run, checkpoint, uri, "export")
    trained = encoder_of(found, uri, code)
    if not found.run_id:
        return exporting.export_to(
            trained, to, out, Origin(Path(found.checkpoint).name, metrics=_measured(Path(found.checkpoint)))
        )
    metrics, tags = track.attach(track.resolve_uri(uri or found.uri), found.run_id).results()
    origin = Origin(
        f"MLflow run `{found.run_id}`", tags.get("contray.dataset", ""), tags.get("mlflow.source.git.commit", ""), metrics
    )
    return exporting.export_to(trained, to, out, origin)


def _measured(checkpoint: Path) -> dict[str, float]:
    """What stands in a run's folder of what it was measured by; nothing where it is no run's, or was not measured."""
    from ..storage import sealed
    from ..storage.folder import Storage
    from ..training.worker import VERDICT

    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    try:
        return sealed.read(Storage(str(folder)), VERDICT, sealed.NUMBER) or {}
    except sealed.Damaged:
        return {}
