"""The data source of any path: a folder of images, a Parquet file, or a folder of Parquet files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.registry import names
from ..config.sections import DataConfig
from ..errors import ConfigError, DataError, nearest, shown
from .layout import SUFFIXES, Found, listing, scan, splits_in, suffix
from .native import SUFFIXES as NATIVE
from .splits import Source, check_columns

if TYPE_CHECKING:
    from .parquet import Footer

READS = ("image_column", "label_column")


def open_source(config: DataConfig, own: None) -> Source:
    """Find what lies there, check its layout and read its labels. Raises ConfigError or DataError, one line each."""
    try:
        return _at(Path(config.source).expanduser(), config)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~nobody
        raise DataError(f"data.source: {config.source} cannot be read ({error})") from error


def _at(path: Path, config: DataConfig) -> Source:
    name = config.source
    if shown(name) != name:
        raise ConfigError(
            "data.source", f"{name} is not written in UTF-8, which a config must be; go into it and give . or a link to it"
        )
    if not path.exists():
        looks_like_path = len(path.parts) > 1 or path.suffix
        what = f"{name} does not exist" if looks_like_path else f"{name!r} is neither a built-in set nor a file or folder"
        raise ConfigError("data.source", f"{what}; {nearest(name, names('source'))}")
    from .folder import open_folder
    from .parquet import footer_of, open_parquet

    if not path.is_dir():
        if suffix(path.name) in SUFFIXES:
            raise DataError(f"data.source: {name} is a single image; give the folder that it lies in")
        if not path.is_file():
            raise DataError(f"data.source: {name} is neither a file nor a folder")
        train, test, notes = open_parquet(path, {"": footer_of(path)}, config)
        return Source(shown(path.stem or name), train, test, notes)
    found = scan(path, also=NATIVE if config.channels else frozenset())
    footers, notes = _tables(path, found, config)
    if not footers:
        check_columns(config, f"{name} holds image files, which have", labels=True)
    train, test, taken = open_parquet(path, footers, config) if footers else open_folder(path, found, config)
    notes += [*taken, *filter(None, [found.note()])]
    return Source(shown(path.resolve().name), train, test, [shown(note) for note in notes])


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
