"""The data source of any path: a folder of images, or a file or folder of Parquet, tar archives or Arrow."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.registry import names
from ..config.sections import DataConfig
from ..errors import ConfigError, DataError, nearest, shown
from ..storage.folder import Storage
from ..storage.logins import scrubbed
from ..storage.reached import absent, unread
from .columns import check_columns
from .layout import SHARDS, SUFFIXES, Found, listing, splits_in, suffix
from .native import SUFFIXES as NATIVE
from .places import File, Remote, absolute
from .splits import EncodedSplit, Source

if TYPE_CHECKING:
    from .parquet import Footer

READS = ("image_column", "label_column")


def open_source(config: DataConfig, own: None) -> Source:
    """Find what lies there, check its layout and read its labels. Raises ConfigError or DataError, one line each."""
    name = config.source
    if shown(name) != name:
        raise ConfigError(
            "data.source", f"{name} is not written in UTF-8, which a config must be; go into it and give . or a link to it"
        )
    place: File | None = None
    try:
        place = Remote(Storage(re.sub(r"(?<=[^:/])/+$", "", name), "data.source")) if "://" in name else Path(name).expanduser()
        kind = _kind(place, name)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~nobody
        raise DataError(f"data.source: {name} cannot be read: {_why(place, error)}") from error
    try:
        return _file(place, config) if kind == "file" else _folder(place, config)
    except OSError as error:
        raise DataError(f"data.source: {name} cannot be read: {_why(place, error)}") from error


def _why(place: File | None, error: BaseException) -> str:
    return unread(place.storage, error) if isinstance(place, Remote) else scrubbed(str(error))


def _beside(place: Path) -> list[str]:
    """The names in the folder in which something was looked for."""
    try:
        return [each.name for each in sorted(place.parent.iterdir())[:1000]]
    except OSError:
        return []


def _kind(place: File, name: str) -> str:
    """file or folder. Raises ConfigError for nothing, DataError for what is neither."""
    if isinstance(place, Remote):
        info = place.storage.system.get_file_info(place.place)
        if not info.type:
            raise ConfigError("data.source", f"{name}: {absent(place.storage)}")
        return "file" if info.is_file else "folder"
    if not place.exists():
        looks_like_path = len(place.parts) > 1 or place.suffix
        what = f"{name} does not exist" if looks_like_path else f"{name!r} is neither a built-in set nor a file or folder"
        where = f"{what} (looked for in {shown(str(place.absolute().parent))})"
        if like := difflib.get_close_matches(place.name, _beside(place), n=3, cutoff=0.6):
            raise ConfigError(
                "data.source", f"{where}; did you mean {', '.join(str(Path(name).with_name(each)) for each in like)}?"
            )
        raise ConfigError("data.source", f"{where}; {nearest(name, names('source'))}")
    if not (place.is_dir() or place.is_file() or suffix(place.name) in SUFFIXES):
        raise DataError(f"data.source: {name} is neither a file nor a folder")
    return "folder" if place.is_dir() else "file"


def _file(place: File, config: DataConfig) -> Source:
    from .parquet import footer_of, open_parquet

    if suffix(place.name) in SUFFIXES:
        raise DataError(f"data.source: {config.source} is a single image; give the folder that it lies in")
    if place.name.lower().endswith(SHARDS):
        train, test, notes = open_shards(place, [""], config)
    else:
        train, test, notes = open_parquet(place, {"": footer_of(place)}, config)
    return Source(shown(os.path.splitext(place.name)[0] or config.source), train, test, notes)


def _folder(place: File, config: DataConfig) -> Source:
    from .folder import open_folder
    from .index import index_of
    from .parquet import open_parquet

    index = index_of(place, config.scratch, NATIVE if config.channels else frozenset())
    found = index.found
    name = shown(place.resolve().name if isinstance(place, Path) else place.name)
    footers, notes = _tables(place, found, config)
    if found.shards and not (footers or found.images):
        train, test, taken = open_shards(place, found.shards, config)
        return Source(name, train, test, [shown(note) for note in (*notes, *taken)])
    if not footers:
        check_columns(config, f"{config.source} holds image files, which have", labels=True)
    train, test, taken = open_parquet(place, footers, config) if footers else open_folder(place, index, config)
    notes += [*taken, *filter(None, [found.note()])]
    return Source(name, train, test, [shown(note) for note in notes])


def open_shards(root: File, names: list[str], config: DataConfig) -> tuple[EncodedSplit, EncodedSplit | None, list[str]]:
    """(train, test or None, notes) of archives or Arrow files, by their names relative to `root`; "" is `root` itself."""
    from .hugging_face import open_arrow
    from .webdataset import open_tars

    arrow = [name for name in names if (name or root.name).lower().endswith(".arrow")]
    if arrow and len(arrow) < len(names):
        raise DataError(
            f"data.source: {config.source} holds both Arrow files ({listing(arrow, 1)}) and archives; give the folder of one"
        )
    return (open_arrow if arrow else open_tars)(root, names, config)


def _tables(path: File, found: Found, config: DataConfig) -> tuple[dict[str, Footer], list[str]]:
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
        if not named.issuperset(absolute(path / name) for name in found.images):
            raise DataError(
                f"data.source: {path} holds both images ({listing(found.images, 1)}) and Parquet with images ({listing(list(tables), 1)}); "
                "give the folder or the file of one"
            )
    return tables, [f"not used: {listing(others)}, without images in a column {column!r}"] if others else []
