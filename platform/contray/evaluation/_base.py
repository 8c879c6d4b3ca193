"""The evaluation interface: what an evaluation is given, what it gives back, and how it describes itself.

An evaluation is a module of fixed exports, read from top to bottom:

    ABOUT     one sentence: what it measures, and beside what
    PAPER     what to cite                                        (Citation)
    NEEDS     what there must be: "labels", "blocks", "boxes", ...   (tuple of words; without "labels" in it none are asked for)
    METRICS   names of held-out metrics that trials may be ranked on, * for what a name leaves open; the higher the better, 0 or more
    Config    its keys, a frozen dataclass of `setting`s, read as eval.NAME.key
    evaluate(subject, options) -> Measured, or any mapping of names to numbers; options: its Config

It must leave the subject's method as it is: it may run while that trains. TAKES, if there, names sections of the config whose keys it takes as
its own (`subject.taken`), such as the backbone of a student. A file that is only listed loads nothing heavy: what it computes with is
imported within `evaluate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config.evaluations import Citation
from ..errors import UserError
from ..methods._base import setting
from ..tables import Shown, Table

if TYPE_CHECKING:
    import numpy as np

    from .. import data
    from ..config import RunConfig
    from ..methods._base import Method
    from ..model.encoder import Encoder
    from .common.crew import Crew
    from .common.diagnosis import Diagnosis

ENCODERS = {"": "trained encoder", "random_": "untrained encoder", "pixels_": "raw pixels"}  # by the prefix of their metrics
ABOUT = re.compile("_images(_broken)?$|_gain_error$")  # metrics that say what others stand on
ROWS = 65_536  # of features that are looked at at once
PICTURES = (".png", ".jpg", ".pdf", ".svg")

Show = Callable[[dict[str, Any]], object]  # takes what `TrainingBar.show` takes


class Measured(Shown, dict[str, float]):
    """Metrics by name. about: what they stand on; pictures: files that were drawn; on: the data, where that is not the subject's own source;
    tested: what was set aside to test, in words, where the data have no test set of their own.

    In `about`: fit_images, val_images, test_images: how many could be read and are counted; test_images_broken: how many could not, if any;
    labelled_images: how many labels fine-tuning was given; {prefix}{knn or linear}_gain_error: the standard error of the gain over that encoder.
    """

    def __init__(
        self, metrics: Mapping[str, float], pictures: tuple[Path, ...] = (), on: str | None = None, tested: str = ""
    ) -> None:
        """metrics: with what is about them among them. on: empty for data that is built in."""
        super().__init__({name: value for name, value in metrics.items() if not ABOUT.search(name)})
        self.about = {name: value for name, value in metrics.items() if ABOUT.search(name)}
        self.pictures, self.on, self.tested = pictures, on, tested

    @property
    def shown(self) -> Sequence[Table | str | Path]:
        """As it prints: its tables, and its pictures."""
        from .common.tables import tables_of

        return [*tables_of(self), *self.pictures]


class NotFinite(UserError):
    """An encoder gives features that are no numbers."""


@dataclass(frozen=True)
class Features:
    """Frozen features of one split: x (N, D) float32 on the CPU, y (N,) int64 or None where there are no labels, ids (N,) int64.

    Raises NotFinite where a feature is not finite.
    """

    x: Tensor
    y: Tensor | None
    ids: Tensor

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or len(self.ids) != len(self.x) or (self.y is not None and len(self.y) != len(self.x)):
            labels = None if self.y is None else len(self.y)
            raise ValueError(f"features {tuple(self.x.shape)}, {labels} labels and {len(self.ids)} ids do not belong together")
        broken = self.ids[~torch.cat([rows.isfinite().all(1) for rows in self.x.split(ROWS)])].tolist()
        if broken:
            raise NotFinite(
                f"{len(broken)} of {len(self.x)} images have features that are not finite, the first is image {broken[0]}"
            )


@dataclass(frozen=True)
class Parts:
    """Features of the images that fit, that pick, and that test, which is None where the test set stays shut or has no labels."""

    fit: Features
    val: Features
    test: Features | None


def _no_runs(run: str) -> Encoder:
    raise UserError(f"{run}: an MLflow run's encoder cannot be had here; give its checkpoint")


@dataclass
class Subject:
    """Whom an evaluation measures: an encoder, its config and its data, on a device.

    tests: whether the test set may be opened; online: whether the method is still training. show: is told how far one is.
    out: where pictures go, a folder or the file of the only one; None: none is drawn. taken: the keys of the sections in TAKES that were given.
    """

    config: RunConfig
    method: Method
    device: torch.device
    tests: bool = True
    online: bool = False
    show: Show = lambda message: None
    out: Path | None = None
    taken: Mapping[str, Any] = field(default_factory=dict)
    given: data.Source | None = None  # the data, where it is open already
    load: Callable[[str], Encoder] = _no_runs  # the encoder of an MLflow run
    shared: bool = False  # whether the other ranks of the process group encode too: they `follow` this one's crew
    keeps: bool = False  # whether features of large sets are kept on disk until `forget`, for an interrupted call to go on from

    @cached_property
    def source(self) -> data.Source:
        """The data; it is opened when it is asked for first."""
        from .. import data

        return self.given or data.announced(self.config)

    @property
    def classes(self) -> int:
        return len(self.source.train.classes)

    @cached_property
    def test(self) -> data.Split | None:
        """The labelled test images, None where there are none or they may not be opened. Raises DataError where labels cannot serve."""
        from .common.samples import check_labels

        tested = check_labels(self.source)
        return tested if self.tests else None

    @cached_property
    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """(fit ids, held-out ids) of the labelled training images: the latter pick, and rank trials. Raises ConfigError where they are too few."""
        from .common.samples import held_out

        return held_out(self.config, self.source)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Prefixes of what can be measured alike: "" the encoder and, where it is tested, "random_" untrained and "pixels_" raw pixels."""
        return tuple(ENCODERS) if self.tests else ("",)

    @cached_property
    def untrained(self) -> Method:
        """The same method as it was before it trained."""
        return self.crew.untrained

    @cached_property
    def crew(self) -> Crew:
        """Who encodes."""
        from .common.crew import Crew

        return Crew(self.config, self.source, self.device, self.show, self.shared, self.keeps)

    def alone(self, name: str) -> None:
        """Say that the evaluation of this name trains on one rank, where there are others."""
        if self.shared and self.crew.world > 1 and name not in self._alone:
            self._alone.add(name)
            print(
                f"contray: eval {name} trains on one worker; the other {self.crew.world - 1} compute frozen features alone",
                flush=True,
            )

    @cached_property
    def _alone(self) -> set[str]:
        return set()

    def forget(self) -> None:
        """What features were kept on disk for is done."""
        if "crew" in vars(self):
            self.crew.forget()

    def features(self, encoder: str = "") -> Parts:
        """Frozen features of the images that fit, pick and test, by one of `encoders`. Encoded once for all evaluations."""
        self.encode((encoder,))
        return self._features[encoder]

    def encode(self, encoders: Sequence[str]) -> None:
        """Have the features of several encoders at hand, for which each image is read once."""
        from .common.features import parts

        if missing := [encoder for encoder in encoders if encoder not in self._features]:
            self._features.update(parts(self, missing))

    @cached_property
    def _features(self) -> dict[str, Parts]:
        return {}

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """The images whose features' geometry is looked at, always the same ones."""
        from .common.diagnosis import Diagnosis

        return Diagnosis(self.config, self.source, self.device, self.crew)

    def picture(self, name: str) -> Path | None:
        """Where a picture called `name`, such as similarities.png, is to be drawn, in a folder that is there; None: it is not."""
        path = self.out if self.out is None or self.out.suffix in PICTURES else self.out / name
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


__all__ = ["ENCODERS", "Citation", "Features", "Measured", "Parts", "Show", "Subject", "setting"]
