"""The report of a look as a file, kept in MLflow as a run that no comparison takes for a training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .. import data, track
from ..config import RunConfig
from ..errors import UserError
from ..storage.logins import bare
from .groups import counts
from .result import Inspection

KINDS = (".html", ".png", ".json")
KIND = "data check"  # tag contray.kind


def write(result: Inspection, config: RunConfig, source: data.Source, out: Path) -> None:
    """Write `out` as its suffix says, and keep it in MLflow; where that cannot be, it is said."""
    if out.suffix == ".html":
        from .page import written

        out.write_text(written(result), encoding="utf-8", errors="replace")
    elif out.suffix == ".png":
        from .picture import draw

        draw(result, out)
    else:
        out.write_text(json.dumps(result.document(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
    try:
        _keep(result, config, source, out)
    except (UserError, OSError) as error:
        print(f"contray: {out} is written, but MLflow does not keep it ({error})", file=sys.stderr, flush=True)


def _keep(result: Inspection, config: RunConfig, source: data.Source, out: Path) -> None:
    uri = track.resolve_uri(config.track.uri)
    track.check(uri)
    found = {
        "images": sum(part.images for part in result.parts),
        "broken": sum(part.broken for part in result.parts),
        **counts(result.groups),
    }
    tags = {"contray.kind": KIND, "contray.verdict": result.said}
    run = track.begin(
        uri, config.track.experiment, f"check {result.name}", params={"data.source": bare(config.data.source), **found}, tags=tags
    )  # fmt: skip
    status = "FAILED"
    try:
        run.log_inputs(track.datasets_of(source, data.fingerprint(source, config.data)["data"], config.data.source))
        run.log_artifact(out)
        status = "FINISHED"
    finally:
        run.finish(status)
