"""An encoder of a run or a checkpoint, opened to be measured or drawn with keys of its caller."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig
from ..config.registry import name_parts
from ..errors import UserError
from ..storage.names import slug
from .load import load

if TYPE_CHECKING:
    from .. import data, track
    from ..model.encoder import Encoder


TAKEN = (
    "data.*",
    "eval.holdout",
    "eval.crop",
    "eval.batch_size",
    "train.device",
    "track.uri",
)  # keys that leave an encoder what it is


@dataclass(frozen=True)
class Opened:
    """An encoder, the config that it is measured with, the encoder's with the overrides, and the run that results are kept in, if any."""

    encoder: Encoder
    config: RunConfig
    run: track.TrackedRun | None

    def data_name(self, source: Callable[[], data.Source]) -> str:
        """Of the data, as MLflow takes it in a metric's name; empty for the run's own."""
        ours, theirs = self.config.data, self.encoder.config.data
        shown = [
            "source",
            "image_column",
            "label_column",
            *(("size", "renderings", "contrast") if ours.source == "digits" else ()),
        ]
        parts, others = (
            {key: part for key, part in each.parts.items() if key.startswith("data.")}
            for each in (self.config, self.encoder.config)
        )
        return "" if parts == others and all(getattr(ours, key) == getattr(theirs, key) for key in shown) else slug(source().name)

    def keep(self, metrics: Mapping[str, float], pictures: Sequence[Path], name: str, folder: str = "") -> None:
        """Log to the run: metrics at step 0, after `NAME.` where there is a name, and pictures in a folder of that name."""
        if self.run is None:
            return
        if metrics:
            self.run.log_metrics({f"{name}.{key}" if name else key: value for key, value in metrics.items()}, step=0)
        for picture in pictures:
            self.run.log_artifact(picture, "/".join(filter(None, (folder, name))))


def encoder_of(
    overrides: Mapping[str, Any],
    run: str,
    checkpoint: str,
    own: tuple[str, ...] = (),
    verb: str = "evaluate",
    noun: str = "an evaluation",
) -> Encoder:
    """The encoder of a run or a checkpoint. Raises UserError for keys that are neither of TAKEN nor `own`, and where neither or both are named."""
    from ..model.encoder import read_checkpoint

    name_parts(overrides)
    for key in overrides:
        if not any(fnmatch.fnmatchcase(key, each) for each in (*TAKEN, *own)):
            raise UserError(f"{key}: {noun} takes {', '.join((*own, *TAKEN))}; the rest comes with the encoder")
    if bool(run) == bool(checkpoint):
        raise UserError(f"name what to {verb}: either --run RUN_ID or --checkpoint PATH")
    return load(run, uri=uri_of(overrides)) if run else read_checkpoint(checkpoint)


def uri_of(overrides: Mapping[str, Any]) -> str:
    """The tracking URI that was asked for, not the one that the encoder's run had."""
    return RunConfig.make(overrides={key: value for key, value in overrides.items() if key == "track.uri"}).track.uri
