"""contray.plot"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..config.registry import name_files
from ..errors import UserError
from .opened import Opened, encoder_of, uri_of


def plot(
    what: str,
    *,
    run: str = "",
    checkpoint: str = "",
    runs: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    out: Path | None = None,
    by: str = "tsne",
    images: int = 0,
    metric: str = "loss",
    code: str | Sequence[str] = (),
) -> dict[str, float]:
    """Draw a picture of `contray.pictures.KINDS` into `out` (default: WHAT.png), as `contray plot` does; the numbers that it yields.

    All but "curves" are of the encoder of a run or a checkpoint; with `run` the picture is kept in it, under pictures/, and the numbers are
    logged to it as `evaluate` logs its own. "curves" is of `metric` of the `runs`. overrides: dotted keys, as `evaluate` takes them.
    by: "map" by tsne or umap; images: how many are worked on at most, 0: the picture's own number.
    """
    from importlib import import_module

    from .. import data, model, pictures, track

    name_files(code)
    out = out or Path(f"{what}.png")
    pictures.check(what, out, by, images)
    if what == "curves":
        if run or checkpoint or not runs:
            raise UserError("plot curves: name the MLflow runs: contray plot curves --run RUN_ID RUN_ID ...")
        from ..pictures.curves import draw

        foreign = [key for key in overrides or {} if key != "track.uri"]
        if foreign:
            raise UserError(f"{foreign[0]}: curves of runs are what was logged; only track.uri can be given")
        draw(track.resolve_uri(RunConfig.make(overrides=overrides or {}).track.uri), runs, metric, out)
        return {}
    if runs:
        raise UserError(f"plot {what}: {' '.join(runs)} not understood; the one run that is drawn is given by --run RUN_ID")
    if metric != "loss":
        raise UserError(f"--metric: {metric} is of plot curves, not of plot {what}")
    from ..pictures.subject import Subject

    overrides = dict(overrides or {})
    encoder = encoder_of(overrides, run, checkpoint, (), "draw", "a picture")
    config = encoder.config.replace(overrides)
    drawn = Opened(encoder, config, track.attach(track.resolve_uri(uri_of(overrides)), run) if run else None)
    source, device = data.announced(config), model.device_of(config)
    subject = Subject(config, source, encoder.method.to(device), device, images, by)
    metrics: dict[str, float] = import_module(f"..pictures.{what}", __package__).draw(subject, out)
    drawn.keep(metrics, [out], drawn.data_name(lambda: source), "pictures")
    return metrics
