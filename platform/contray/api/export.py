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

    out = Path(out).expanduser()
    if run or checkpoint:
        exporting.check(to, out)  # before a store is asked for a name
    found = named_one(run, checkpoint, uri, "export")
    trained = encoder_of(found, uri, code)
    if not found.run_id:
        place = Path(found.checkpoint)
        name = f"{place.absolute().parent.name}/{place.name}" if place.suffix == ".pt" else place.name
        return exporting.export_to(trained, to, out, Origin(name, metrics=_measured(place)))
    metrics, tags = track.attach(track.resolve_uri(uri or found.uri), found.run_id).results()
    origin = Origin(
        f"MLflow run `{found.run_id}`", tags.get("contray.dataset", ""), tags.get("mlflow.source.git.commit", ""), metrics
    )
    return exporting.export_to(trained, to, out, origin)


def _measured(checkpoint: Path) -> dict[str, float]:
    """What the run's folder says that this checkpoint was measured by: of several it is the last that was."""
    from ..storage import sealed
    from ..storage.checkpoint import PATTERN, newest_step
    from ..storage.folder import Storage
    from ..training.worker import VERDICT

    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if folder != checkpoint:
        step = PATTERN.fullmatch(checkpoint.name)
        if not step or int(step[1]) != newest_step(Storage(str(folder))):
            return {}
    try:
        return sealed.read(Storage(str(folder)), VERDICT, sealed.NUMBER) or {}
    except sealed.Damaged:
        return {}
