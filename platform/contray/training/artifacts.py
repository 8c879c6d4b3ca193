"""What MLflow keeps of a run besides its curves: the config, a grid of views, the curves as a picture, the encoder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import data
from ..config import RunConfig
from ..methods._base import Method
from ..track import TrackedRun
from .records import record_config

ENCODER = "encoder"


@dataclass(frozen=True)
class Ended:
    """Where a run stands that trains no more, whether or not it is finished."""

    config: RunConfig
    step: int
    worlds: list[int]
    finished: bool
    metrics: Mapping[str, float]  # of the verdict; empty without one


def keep(
    run: TrackedRun, ended: Ended, split: Callable[[], data.Split], method: Callable[[], Method], redraw: bool = True
) -> list[str]:
    """Record what the run does not have yet; the names of it. redraw: the curves anew, for points have come.

    split, method: the training data and the trained module, fetched only if they are needed. Raises TrackingError.
    """
    from .. import drawing as curves
    from .. import track
    from ..model import encoder
    from ..pictures.preview import draw

    config, there, added = ended.config, run.kept(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "config.yaml" not in there:
            record_config(run, config)
            added.append("config.yaml")
        if "views.png" not in there:
            draw(split(), config.views, strength=config.augment.strength, seed=config.seed, out=folder / "views.png")
            run.log_artifact(folder / "views.png")
            added.append("views.png")
        if redraw or "curves.png" not in there:
            histories = {name: run.history(name) for name in curves.CURVES}
            title = f"{Path(config.method.name).stem} {config.method.preset}"
            run.log_artifact(curves.draw(histories, title, folder / "curves.png"))
            added.append("curves.png")
        # a run that was extended keeps the encoder of its first end beside the one of its last
        older = run.results()[1].get("contray.step", "") not in ("", str(ended.step))
        if ended.finished and config.track.model and (ENCODER not in there or older):
            encoder.export(config, method(), folder / ENCODER)
            track.log_encoder(run, folder / ENCODER, ENCODER, metadata=dict(ended.metrics))
            added.append(ENCODER)
    run.set_tags({"contray.worlds": " ".join(map(str, ended.worlds)), "contray.step": str(ended.step)})
    return added
