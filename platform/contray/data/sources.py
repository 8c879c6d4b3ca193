"""The door to data: sources by name, by path, or of one's own.

A data source is a module:

    open_source(config, own) -> Source   finds the data, reads the labels, decodes nothing yet; raises DataError, one line, for what cannot be used
    Config                               where it has keys of its own, data.NAME.key: a frozen dataclass of `setting`s; `own` is one of these
    READS                                which of data.image_column and data.label_column it heeds; () where it has none

`config` are the keys data.*. Each worker opens the source by itself, from the config, and its loader processes are forked: nothing needs to be pickled.
The fingerprint of what `Split.content` gives is in every checkpoint, so that no run goes on over other data.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from importlib.metadata import version
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from ..config import RunConfig
from ..config.registry import SOURCES, find, names, part_name, told
from ..config.sections import DataConfig
from ..errors import ConfigError, DataError, UserError, shown
from . import files
from .aside import set_aside
from .columns import check_columns
from .form import Form
from .listed import labelled, narrowed, restricted
from .shards import check_room
from .splits import ArraySplit, BrokenImage, EncodedSplit, Source, Split, digest

PIPELINE = "5"  # raised whenever the same key gives other pixels
_LIBRARIES = ("numpy", "albumentations", "torch", "torchvision", "pillow")  # OpenCV goes by many package names


def open_source(config: RunConfig | DataConfig) -> Source:
    """Find `data.source`, check its layout and read its labels, but decode nothing yet. DataConfig: a source's own keys have their defaults.

    Raises ConfigError or DataError, one line each: no such source, an empty one, a missing column or set, no room for the copies that it needs.
    """
    source, keys = _found(config), config if isinstance(config, DataConfig) else config.data
    train = source.train
    check_room(train.shards(), keys, train.decoded_bytes if isinstance(train, EncodedSplit) else lambda: 0.0)
    return source


def _found(config: RunConfig | DataConfig) -> Source:
    keys = config if isinstance(config, DataConfig) else config.data
    name = keys.source
    module = find("source", name) if name.endswith(".py") or name in names("source") else files
    reads = getattr(module, "READS", ())
    if not isinstance(reads, tuple) or not set(reads) <= {"label_column", "image_column"}:
        raise UserError(f"source {name}: READS is {reads!r}, must be a tuple of label_column, image_column, both or none")
    what = f"{name} {'have' if name in SOURCES else 'has'}"
    check_columns(keys, what, labels="label_column" not in reads, images="image_column" not in reads)
    if module is files or name in SOURCES:
        source = _formed(name, module.open_source(keys, None), keys)
        return _by_lists(source, keys, f"{source.name}{'/' * os.path.isdir(os.path.expanduser(name))}")
    own = (
        getattr(module, "Config", lambda: None)()
        if isinstance(config, DataConfig)
        else config.parts.get(f"data.{part_name(name)}")
    )
    source = _formed(name, _opened(name, module, keys, own), keys)
    return _by_lists(source, keys, source.name)


def _by_lists(source: Source, keys: DataConfig, place: str) -> Source:
    """The source with a test set, and what data.labels and data.subset make of the rest: the same images test with and without them."""
    return narrowed(restricted(set_aside(labelled(source, keys), keys.test_share, place), keys), keys)


def _formed(name: str, source: Source, config: DataConfig) -> Source:
    """The source, its files read in data.channels. Raises ConfigError or DataError where its images have others."""
    for part, split in (("train", source.train), *([] if source.test is None else [("test", source.test)])):
        if isinstance(split, EncodedSplit):
            split.take(Form.of(config))
        elif split.channels != config.channels and isinstance(split, ArraySplit) and not config.channels:
            held = f"images are {split.images.dtype} {split.images.shape}, must be uint8 (N, H, W, 3)"
            raise DataError(
                f"data.source: {name}: {part}: {held}, unless --data.channels {split.channels} says that the last axis has so many"
            )
        elif split.channels != config.channels:
            held = f"images of {split.channels} channels" if split.channels else "RGB images of 8 bits"
            raise ConfigError("data.channels", f"got {config.channels}, but {name} has {held}; give {split.channels}")
    return source


def announced(config: RunConfig | DataConfig, quiet: bool = False) -> Source:
    """`open_source`, and its notes on stderr: for whoever starts something, while workers open the same source in silence."""
    source = open_source(config)
    keys = config if isinstance(config, DataConfig) else config.data
    idle = keys.window != DataConfig.window and keys.shuffle != "blocks"
    notes = (
        [f"data.window {keys.window} means nothing: data.shuffle is {keys.shuffle}; give --data.shuffle blocks too"]
        if idle
        else []
    )
    for note in () if quiet else (*source.notes, *source.train.notes(), *notes):
        print(f"contray: data.source: {note}", file=sys.stderr, flush=True)
    return source


def _opened(name: str, module: ModuleType, config: DataConfig, own: Any) -> Source:
    """What a source of somebody else's opens, held against what is asked of it."""
    if not callable(getattr(module, "open_source", None)):
        raise UserError(
            f"source {name}: the file must define open_source(config, own); see docs/examples/numpy_array.py for the form"
        )
    try:
        source = module.open_source(config, own)
        if not isinstance(source, Source):
            raise DataError(f"open_source must give a Source, it gives {type(source).__name__}")
        if not isinstance(source.name, str) or shown(source.name) != source.name:
            raise DataError(f"Source.name must be a text on one line, is {source.name!r}")
        for part, split in (("train", source.train), *([] if source.test is None else [("test", source.test)])):
            if not isinstance(split, Split):
                raise DataError(f"{part} must be a Split, is {type(split).__name__}")
            _check(part, split, source.train.classes)
        if not config.label_column:
            for split in filter(None, (source.train, source.test)):
                split.labels, split.classes = None, []
    except UserError as error:
        words = str(error).removeprefix("data.source: ")
        raise DataError(f"data.source: {'' if words.startswith(name) else f'{name}: '}{words}") from error
    except (Exception, SystemExit) as error:
        raise DataError(f"data.source: {name}: {told(error, module.__file__)}") from error
    return source


def _check(part: str, split: Split, classes: list[str]) -> None:
    """Raises DataError for a split that would fail only later, in a worker."""
    if not len(split):
        raise DataError(f"{part} has no image")
    labels = split.labels
    if not all(isinstance(name, str) for name in split.classes):
        raise DataError(f"{part}: classes are {list(split.classes)[:5]}, must be texts")
    if labels is not None and len(set(split.classes)) < len(split.classes):
        raise DataError(f"{part}: a class is there twice in {list(split.classes)[:20]}")
    if labels is not None:
        if labels.dtype.kind not in "iu" or labels.shape != (len(split),):
            raise DataError(
                f"{part}: labels are {labels.dtype} {labels.shape}, must be integers ({len(split)},), one for each image"
            )
        if labels.min() < 0 or labels.max() >= len(classes):
            raise DataError(
                f"{part}: labels go from {labels.min()} to {labels.max()}, must number the {len(classes)} classes from 0"
            )
    try:
        first = split.image(0, np.random.default_rng(0) if split.generated else None)
    except BrokenImage:
        return
    kinds, channels = ((np.uint8, np.float32), split.channels) if split.channels else ((np.uint8,), 3)
    if not (isinstance(first, np.ndarray) and first.dtype in kinds and first.ndim == 3 and first.shape[2] == channels):
        what = f"{first.dtype} {first.shape}" if isinstance(first, np.ndarray) else type(first).__name__
        raise DataError(
            f"{part}: an image is {what}, must be uint8 (H, W, {channels}){' or float32 in [0, 1]' * (len(kinds) > 1)}"
        )


def other_labels(source: Source, config: RunConfig, column: str) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """What another label column says of a source's images: the classes, (N,) numbers of its training set and of its test set, None where that has none.

    Told by the images' keys, not by their places: what tests of a set without a test set of its own is drawn by its labels, and lists leave images out.
    """
    keys = dataclasses.replace(config.data, label_column=column, test_share=0.0, subset="", labels="")
    whole = open_source(dataclasses.replace(config, data=keys))

    def told(of: Split | None, part: Split | None) -> np.ndarray | None:
        if of is None or of.labels is None or part is None:
            return None
        numbers = dict(zip(of.all_keys(), of.labels.tolist(), strict=True))
        return np.array([numbers[key] for key in part.all_keys()], np.int64)

    train, test = told(whole.train, source.train), told(whole.train if source.tested else whole.test, source.test)
    if train is None:
        raise ConfigError("data.label_column", f"{source.name} has no labels {column!r}")
    return list(whole.train.classes), train, test


def fingerprint(source: Source, config: DataConfig) -> dict[str, str]:
    """What the pixels depend on besides the config of the run: library versions, this pipeline's, the data's content.

    Two runs with equal fingerprints and equal configs draw equal pixels; the place where the data lies is no part of it.
    """
    splits = [split.content() for split in (source.train, source.test) if split is not None]
    libraries = {name: version(name) for name in _LIBRARIES}
    data = digest(splits, config.image_column, *([source.listed] if source.listed else []))
    return {**libraries, "opencv": cv2.__version__, "pipeline": PIPELINE, "data": data}
