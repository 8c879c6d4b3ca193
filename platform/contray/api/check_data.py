"""contray.check_data"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig, dotted
from ..errors import UserError

if TYPE_CHECKING:
    from ..inspection import Inspection


def check_data(
    source: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    sample: int = 0,
    out: str | Path | None = None,
    clean: str | Path | None = None,
    gpu_images_per_second: float = 0.0,
    quiet: bool = False,
) -> Inspection:
    """Read all images of a data source once and say what one should know before a training: broken, repeated and odd images, classes, numbers.

        found = contray.check_data("photos/", out="report.html", clean="keep.txt")
        assert found.ok, found

    overrides: dotted keys data.*, track.* and seed. sample: so many images of each split, drawn by the seed; 0: all. out: a report to write,
    .html, .png or .json, which MLflow keeps too; clean: a list to write of the training images to keep. gpu_images_per_second: of the GPU whose
    data.workers are told and suggested. quiet: no progress bar.
    """
    from ..inspection import METHOD, inspect
    from ..training.progress import TrainingBar

    given = dotted(overrides)
    for key in given:
        if key == "data.source" or not (key.startswith(("data.", "track.")) or key == "seed"):
            raise UserError(f"{key}: a check of data takes its source by itself, data.*, track.* and seed")
    config = RunConfig.make(METHOD, {**given, "data.source": str(source)}, preset="auto")
    kept = {key: value for key, value in given.items() if key.startswith("data.")}
    with TrainingBar("data check", quiet, patience=5) as bar:
        return inspect(
            config, kept, sample=sample, rate=gpu_images_per_second, out=Path(out) if out else None, clean=Path(clean) if clean else None, show=bar.show
        )  # fmt: skip
