"""What MLflow keeps of a run besides its curves: the config, a grid of views, the curves as a picture, neighbours, the encoder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import data
from ..config import RunConfig
from ..errors import DataError
from ..methods._base import Method
from ..track import TrackedRun
from .records import record_config

ENCODER, NEIGHBOURS = "encoder", "neighbours.png"
FEW = 2000  # images of which neighbours are drawn unasked: seconds


@dataclass(frozen=True)
class Ended:
    """Where a run stands that trains no more, whether or not it is finished."""

    config: RunConfig
    step: int
    worlds: list[int]
    finished: bool
    metrics: Mapping[str, float]  # of the verdict; empty without one


def keep(
    run: TrackedRun, ended: Ended, source: Callable[[], data.Source], method: Callable[[], Method], redraw: bool = True
) -> list[str]:
    """Record what the run does not have yet; the names of it. redraw: the curves anew, for points have come.

    source, method: the data and the trained module, fetched only if they are needed. Raises TrackingError.
    """
    from .. import drawing as curves
    from .. import model, track
    from ..model import encoder
    from ..pictures import neighbours
    from ..pictures.look import Look
    from ..pictures.preview import draw
    from ..pictures.subject import Subject

    config, there, added = ended.config, run.kept(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "config.yaml" not in there:
            record_config(run, config)
            added.append("config.yaml")
        if "views.png" not in there:
            train, out = source().train, folder / "views.png"
            draw(train, config.views, strength=config.augment.strength, seed=config.seed, out=out, look=Look.of(config, train))
            run.log_artifact(folder / "views.png")
            added.append("views.png")
        if redraw or "curves.png" not in there:
            histories = {name: run.history(name) for name in curves.CURVES}
            title = f"{Path(config.method.name).stem} {config.method.preset}"
            run.log_artifact(curves.draw(histories, title, folder / "curves.png"))
            added.append("curves.png")
        if ended.finished and ended.metrics and NEIGHBOURS not in there:
            opened, trained = source(), method()
            views = type(trained).eval_views(config.views).values()
            if len(opened.train) + len(opened.test or ()) <= FEW and all(view.source == "image" for view in views):
                training = trained.training
                subject = Subject(config, opened, trained.eval(), model.device_of(config))
                try:
                    if not len(subject.asked()[1]):
                        raise DataError("there is no image that training did not see, or that is held out")
                    neighbours.draw(subject, folder / NEIGHBOURS)
                except DataError as error:  # the run is trained and its numbers stand
                    print(f"contray: {NEIGHBOURS} was not drawn ({error})", flush=True)
                else:
                    run.log_artifact(folder / NEIGHBOURS)
                    added.append(NEIGHBOURS)
                trained.train(training)
        # a run that was extended keeps the encoder of its first end beside the one of its last
        older = run.results()[1].get("contray.step", "") not in ("", str(ended.step))
        if ended.finished and config.track.model and (ENCODER not in there or older):
            encoder.export(config, method(), folder / ENCODER)
            kind = encoder.kind_of(config)
            track.log_encoder(run, folder / ENCODER, ENCODER, dict(ended.metrics), kind=kind, channels=config.channels)
            added.append(ENCODER)
    run.set_tags({"contray.worlds": " ".join(map(str, ended.worlds)), "contray.step": str(ended.step)})
    return added
