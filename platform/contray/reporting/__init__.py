"""A report that one can show: a run on one self-contained HTML page."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, check_writable

NAME = "report.html"


def report(
    run: str = "",
    *,
    checkpoint: str = "",
    uri: str = "",
    out: Path | str | None = None,
    code: str | Sequence[str] = (),
    quiet: bool = True,
) -> Path:
    """Write the page of a run (its id, name or folder) or of a checkpoint into `out` (default: report.html), and keep it in the run; the file.

    A group of seeds has a table over them and its first seed in full, a sweep its trials and its winner. uri: of MLflow; code: your own .py files that
    the encoder is made with. Raises UserError where there is no such run; what else is missing is said on the page.
    """
    from ..config.registry import name_files
    from ..track import TrackingError
    from ..training.progress import TrainingBar
    from .page import written
    from .record import find

    out = Path(out or NAME)
    if out.suffix not in (".html", ".htm"):
        raise UserError(f"--out: got {out}, must end in .html")
    name_files(code)
    record = find(run, checkpoint, uri)
    check_writable("--out", out)
    with TrainingBar("report", quiet) as bar:
        page = written(record, bar.show)
    out.write_text(page, encoding="utf-8")
    if record.lacks:
        print(
            f"contray: map, neighbours, confusion and the data's facts are left out: {record.lacks}", file=sys.stderr, flush=True
        )
    keeper = record.asked or record.tracked
    if keeper is not None:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / NAME  # under one name, whatever the file is called
            copy.write_text(page, encoding="utf-8")
            try:
                keeper.log_artifact(copy)
            except (TrackingError, OSError) as error:
                print(f"contray: the page is written, but MLflow does not keep it ({error})", file=sys.stderr, flush=True)
    return out


__all__ = ["NAME", "report"]
