"""An encoder of a run or a checkpoint, opened to be measured or drawn with keys of its caller."""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig
from ..config.registry import name_parts
from ..errors import UserError
from ..storage.names import slug
from .named import Named, encoder_of

if TYPE_CHECKING:
    from .. import data, track
    from ..model.encoder import Encoder


# keys that leave an encoder what it is
TAKEN = (
    "data.*",
    "eval.holdout",
    "eval.crop",
    "eval.batch_size",
    "train.device",
    "track.uri",
)
SCALE = {
    "scale.workers": (0, 0),
    "scale.cpus_per_worker": 0,
    "scale.gpus_per_worker": 0,
    "scale.address": "",
    "scale.max_failures": 3,
}  # on what an evaluation runs where nothing is said, wherever its encoder trained


@dataclass(frozen=True)
class Opened:
    """An encoder, the config that it is measured with, the encoder's with the overrides, and the run that results are kept in, if any."""

    encoder: Encoder
    config: RunConfig
    run: track.TrackedRun | None

    def data_name(self, source: Callable[[], data.Source]) -> str:
        """Of the data, as MLflow takes it in a metric's name; empty for the run's own, tested on what the run would test on. Says where that trained."""
        ours, theirs = self.config.data, self.encoder.config.data
        shown = [
            "source",
            "image_column",
            "label_column",
            "subset",
            *(("size", "renderings", "contrast") if ours.source == "digits" else ()),
        ]
        parts, others = (
            {key: part for key, part in each.parts.items() if key.startswith("data.")}
            for each in (self.config, self.encoder.config)
        )
        own = parts == others and all(getattr(ours, key) == getattr(theirs, key) for key in shown)
        if own and ours.test_share == theirs.test_share:
            return ""
        self._warn_of_trained(source())
        labels = f"-{slug(Path(ours.labels).stem)}" if ours.labels and ours.labels != theirs.labels else ""
        name, tested = slug(source().name) + labels, source().tested or source().test is None
        if not own or labels:
            return name
        return f"{name}-test_share-{ours.test_share:g}" if tested else ""  # a test set of its own: the share decides nothing

    def _warn_of_trained(self, source: data.Source) -> None:
        """Say how many images that were set aside to test trained the encoder: which these are changes with labels, lists and share."""
        from .. import data

        mine, theirs = (os.path.realpath(os.path.expanduser(config.data.source)) for config in (self.config, self.encoder.config))
        if not source.tested or source.test is None or mine != theirs:
            return
        try:
            trained = set(data.open_source(self.encoder.config).train.all_keys())
        except UserError:  # not there any more as it was
            return
        count = sum(key in trained for key in source.test.all_keys())
        if count:
            print(
                f"contray: {count:,} of the {len(source.test):,} images that test trained the encoder, which had other labels or another data.test_share",
                file=sys.stderr,
            )

    def name_data(self, source: data.Source) -> None:
        """Have the run name the data of somebody else's that it was measured on; the results are kept, so that a refusal is only said."""
        from .. import data, track

        if self.run is not None:
            keys = self.config.data
            sets = track.datasets_of(source, data.fingerprint(source, keys)["data"], keys.source)
            try:
                self.run.log_inputs([each for each in sets if each.context == "test"] or sets)
            except track.TrackingError as error:
                print(f"contray: {error}", file=sys.stderr)

    def keep(self, metrics: Mapping[str, float], pictures: Sequence[Path], name: str, folder: str = "") -> None:
        """Log to the run: metrics at step 0, after `NAME.` where there is a name, and pictures in a folder of that name."""
        if self.run is None:
            return
        if metrics:
            self.run.log_metrics({f"{name}.{key}" if name else key: value for key, value in metrics.items()}, step=0)
        for picture in pictures:
            self.run.log_artifact(picture, "/".join(filter(None, (folder, name))))


def check_keys(overrides: Mapping[str, Any], own: tuple[str, ...] = (), noun: str = "an evaluation") -> None:
    """Raises UserError for keys that are neither of TAKEN nor `own`."""
    name_parts(overrides)
    for key in overrides:
        if not any(fnmatch.fnmatchcase(key, each) for each in (*TAKEN, *own)):
            raise UserError(f"{key}: {noun} takes {', '.join((*own, *TAKEN))}; the rest comes with the encoder")


def opened(found: Named, overrides: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Opened:
    """The encoder of what was named, with the overrides and more keys; results are kept in the run, where one is known."""
    from .. import track

    uri = uri_of(overrides)
    encoder = encoder_of(found, uri)
    run = track.attach(track.resolve_uri(uri or found.uri), found.run_id) if found.run_id else None
    # they name images of the run's own source
    lists = {"data.subset": "", "data.labels": ""} if "data.source" in overrides else {}
    return Opened(encoder, encoder.config.replace({**lists, **overrides, **(more or {})}), run)


def uri_of(overrides: Mapping[str, Any]) -> str:
    """The tracking URI that was asked for, not the one that the encoder's run had."""
    return RunConfig.make(overrides={key: value for key, value in overrides.items() if key == "track.uri"}).track.uri
