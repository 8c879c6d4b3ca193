"""contray.report"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .named import named_one

if TYPE_CHECKING:
    from .named import Run


def report(
    run: Run = "",
    *,
    checkpoint: str | Path = "",
    uri: str = "",
    out: str | Path | None = None,
    code: str | Sequence[str] = (),
    quiet: bool = False,
) -> Path:
    """Write all that there is of a run on one self-contained HTML page, `out` (default: report.html), and keep it in the run; gives the file.

        contray.report(result, out="simclr.html")

    run, checkpoint: as `contray.export` takes them. uri: of MLflow. code: your own .py files that the encoder is made with.
    """
    from ..reporting import report

    found = named_one(run, checkpoint, uri, "report on")
    return report(
        found.run_id, checkpoint="" if found.run_id else found.checkpoint, uri=uri or found.uri, out=out, code=code, quiet=quiet
    )
