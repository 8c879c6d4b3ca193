"""Data sources by name or path: the built-in digits, torchvision's named sets, folders of images, Parquet."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..config.sections import DataConfig
from ..errors import ConfigError, DataError, nearest, shown
from .layout import SUFFIXES, Found, listing, scan, splits_in, suffix
from .splits import ArraySplit, EncodedSplit, Split, digest

if TYPE_CHECKING:
    from .parquet import Footer

NAMES = ("digits", "cifar10", "cifar100", "stl10")
PIPELINE = "4"  # raised whenever the same key gives other pixels
_LIBRARIES = ("numpy", "albumentations", "torch", "torchvision")  # OpenCV goes by many package names


@dataclass(frozen=True)
class Source:
    """A data set: what trains, and what tests where there is any. notes: what was taken for what, and what was left out and why."""

    name: str
    train: Split
    test: Split | None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.train, EncodedSplit) and isinstance(self.test, EncodedSplit):
            self.test.scale_as(self.train)


def open_source(config: DataConfig) -> Source:
    """Find `data.source`, check its layout and read its labels, but decode nothing yet.

    Raises ConfigError or DataError, one line each: no such source, an empty one, a missing column or set.
    """
    name = config.source
    if name == "digits" or name in NAMES:
        _check_columns(config, f"{name} have", labels=name != "digits")
    if name == "digits":
        from .digits import open_digits

        return Source(name, *open_digits(config))
    if name in NAMES:
        return Source(name, *_torchvision(name, config))
    try:
        return _at(Path(name).expanduser(), config)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~nobody
        raise DataError(f"data.source: {name} cannot be read ({error})") from error


def announced(config: DataConfig, quiet: bool = False) -> Source:
    """`open_source`, and its notes on stderr: for whoever starts something, while workers open the same source in silence."""
    source = open_source(config)
    for note in () if quiet else (*source.notes, *source.train.notes()):
        print(f"contray: data.source: {note}", file=sys.stderr, flush=True)
    return source


def _at(path: Path, config: DataConfig) -> Source:
    name = config.source
    if shown(name) != name:
        raise ConfigError(
            "data.source", f"{name} is not written in UTF-8, which a config must be; go into it and give . or a link to it"
        )
    if not path.exists():
        looks_like_path = len(path.parts) > 1 or path.suffix
        what = f"{name} does not exist" if looks_like_path else f"{name!r} is neither a built-in set nor a file or folder"
        raise ConfigError("data.source", f"{what}; {nearest(name, NAMES)}")
    from .folder import open_folder
    from .parquet import footer_of, open_parquet

    if not path.is_dir():
        if suffix(path.name) in SUFFIXES:
            raise DataError(f"data.source: {name} is a single image; give the folder that it lies in")
        if not path.is_file():
            raise DataError(f"data.source: {name} is neither a file nor a folder")
        train, test, notes = open_parquet(path, {"": footer_of(path)}, config)
        return Source(shown(path.stem or name), train, test, notes)
    found = scan(path)
    footers, notes = _tables(path, found, config)
    if not footers:
        _check_columns(config, f"{name} holds image files, which have", labels=True)
    train, test, taken = (
        open_parquet(path, footers, config) if footers else open_folder(path, found, config.cache_gb, bool(config.label_column))
    )
    notes += [*taken, *filter(None, [found.note()])]
    return Source(shown(path.resolve().name), train, test, [shown(note) for note in notes])


def _check_columns(config: DataConfig, what: str, labels: bool) -> None:
    """Raises ConfigError where a column was named of what has none: whoever names it would take the numbers for that column's.

    labels: whether that goes for data.label_column too, besides its default and empty, which mean the only labels there are, and none.
    """
    default = DataConfig()
    if config.image_column != default.image_column:
        raise ConfigError(
            "data.image_column", f"got {config.image_column!r}, but {what} no columns; leave it at {default.image_column}"
        )
    if labels and config.label_column not in (default.label_column, ""):
        raise ConfigError(
            "data.label_column",
            f"got {config.label_column!r}, but {what} no columns; give {default.label_column} for their only labels, or '' for none",
        )


def _tables(path: Path, found: Found, config: DataConfig) -> tuple[dict[str, Footer], list[str]]:
    """The Parquet files below `path` that are the data set, none where its image files are; notes on those left out."""
    from .parquet import check_images, footer_of, is_image, named_files

    column = config.image_column
    footers = {name: footer_of(path / name) for name in found.tables}
    tables = {name: footer for name, footer in footers.items() if is_image(footer.schema, column)}
    others = [name for name in footers if name not in tables]
    for name in others:
        meant = bool(splits_in(name)) if tables else not found.images or column != DataConfig.image_column
        if meant:
            check_images(path / name, footers[name].schema, column)
    if tables and found.images:
        named = set[str]().union(*(named_files(path / name, column) for name in tables))
        if not named.issuperset(os.path.abspath(path / name) for name in found.images):
            raise DataError(
                f"data.source: {path} holds both images ({listing(found.images, 1)}) and Parquet with images ({listing(list(tables), 1)}); "
                "give the folder or the file of one"
            )
    return tables, [f"not used: {listing(others)}, without images in a column {column!r}"] if others else []


def fingerprint(source: Source, config: DataConfig) -> dict[str, str]:
    """What the pixels depend on besides the config of the run: library versions, this pipeline's, the data's content.

    Two runs with equal fingerprints and equal configs draw equal pixels; the place where the data lies is no part of it.
    """
    splits = [split.content() for split in (source.train, source.test) if split is not None]
    libraries = {name: version(name) for name in _LIBRARIES}
    return {**libraries, "opencv": cv2.__version__, "pipeline": PIPELINE, "data": digest(splits, config.image_column)}


def _torchvision(name: str, config: DataConfig) -> tuple[ArraySplit, ArraySplit]:
    """STL-10's 100 000 unlabelled images are left out: every training sample has a label."""
    from torchvision import datasets

    def split(part: str, images: np.ndarray, labels: Any, classes: Sequence[str]) -> ArraySplit:
        known = bool(config.label_column)
        return ArraySplit(f"{name} {part}", images, np.asarray(labels) if known else None, classes if known else [])

    def load(test: bool) -> ArraySplit:
        part = "test" if test else "train"
        try:
            if name == "stl10":
                found = datasets.STL10(config.root, split=part, download=config.download)
                return split(part, found.data.transpose(0, 2, 3, 1), found.labels, found.classes)
            kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
            cifar = kind(config.root, train=not test, download=config.download)
        except (RuntimeError, OSError) as error:
            if config.download:
                raise DataError(
                    f"data.source: {name} could not be downloaded to {config.root}: {str(error).splitlines()[0]}"
                ) from error
            raise DataError(f"data.source: {name} is not under {config.root}; get it with --data.download true") from error
        return split(part, cifar.data, cifar.targets, cifar.classes)

    return load(False), load(True)
