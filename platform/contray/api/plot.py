"""contray.plot"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig, dotted
from ..config.registry import name_files
from ..errors import UserError
from .named import named, named_one
from .opened import check_keys, opened, uri_of

if TYPE_CHECKING:
    from ..pictures.picture import Picture
    from .named import Run


def plot(
    what: str,
    run: Run = "",
    *,
    checkpoint: str | Path = "",
    runs: Sequence[Run] = (),
    overrides: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    by: str = "tsne",
    images: int = 0,
    channels: Sequence[int] = (),
    metric: str = "loss",
    quiet: bool = False,
    code: str | Sequence[str] = (),
) -> Picture:
    """Draw a picture of `contray.pictures.KINDS` into `out` (default: WHAT.png). A notebook shows it; `.path` is the file, `.metrics` its numbers.

        contray.plot("neighbours", result)
        contray.plot("curves", runs=[result, "simclr-digits-1a2b3c4d"], metric="knn_val_top1", out="curves.png")

    All but "curves" are of the encoder of a run or a checkpoint; with `run` (as `contray.load` takes it) the picture is kept in it, under
    pictures/, and the numbers are logged to it as `evaluate` logs its own. "curves" is of `metric` of the `runs`. overrides: dotted keys, as
    `evaluate` takes them. by: "map" by tsne or umap; images: how many are worked on at most, 0: the picture's own number. channels: three that are
    shown as red, green and blue of images with data.channels, counted from 1.
    """
    from importlib import import_module

    from .. import data, model, pictures, track
    from ..pictures.picture import Picture
    from ..training.progress import TrainingBar

    name_files(code)
    out, given = Path(out or f"{what}.png"), dotted(overrides)
    pictures.check(what, out, by, images)
    if what == "curves":
        asked = [*([run] if run else []), *runs]
        if checkpoint or not asked:
            raise UserError("plot curves: name the MLflow runs: contray plot curves --run RUN_ID RUN_ID ...")
        from ..pictures.curves import draw

        foreign = [key for key in given if key != "track.uri"]
        if foreign:
            raise UserError(f"{foreign[0]}: curves of runs are what was logged; only track.uri can be given")
        uri = RunConfig.make(overrides=given).track.uri
        found = [named(each, uri) for each in asked]
        draw(track.resolve_uri(uri or found[0].uri), [each.run_id for each in found], metric, out)
        return Picture(out, {})
    if runs:
        raise UserError(
            f"plot {what}: {' '.join(map(str, runs))} not understood; the one run that is drawn is given by --run RUN_ID"
        )
    if metric != "loss":
        raise UserError(f"--metric: {metric} is of plot curves, not of plot {what}")
    from ..pictures.subject import Subject

    check_keys(given, noun="a picture")
    drawn = opened(named_one(run, checkpoint, uri_of(given), "draw"), given)
    source, device = data.announced(drawn.config), model.device_of(drawn.config)
    with TrainingBar(what, quiet, patience=5) as bar:
        subject = Subject(drawn.config, source, drawn.encoder.method.to(device), device, images, by, bar.show, tuple(channels))
        metrics: dict[str, float] = import_module(f"..pictures.{what}", __package__).draw(subject, out)
    drawn.keep(metrics, [out], drawn.data_name(lambda: source), "pictures")
    return Picture(out, metrics)
