"""The images of a source by parts: those that a list of files or a Parquet file's row groups give, or, of what lies in shards and where several files are
one image, the samples of the source as training reads it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..config.sections import DataConfig
from ..data import BrokenImage, EncodedSplit, Split, open_source
from ..data.bands import samples_of
from ..data.content import Files, content_of
from ..data.digests import digest
from ..data.form import Form
from ..data.layout import SHARDS, SUFFIXES, TABLE, Found, listing, scan
from ..data.parquet import cell_bytes, is_image, read_file, read_stored
from ..data.places import File, Remote, folder_of, size_of
from ..data.rows import table
from ..errors import DataError, UserError
from ..storage.folder import Storage
from ..storage.reached import absent, unread

PAUSES = (0.2, 1.0)
SAMPLED, PLACES = 64, 4  # images that tell what the values mean, and parts that they are taken from
Read = Callable[[], bytes | memoryview | None]


def in_samples(found: Found, source: str, channels: int) -> bool:
    """Whether what lies there is no plain list of image files or of Parquet."""
    if found.images:
        return channels > 1 and bool(samples_of(found.images, channels))
    return not found.tables and (bool(found.shards) or source.lower().endswith(SHARDS))


class Samples:
    """Those that train, then those that test; nothing is held out."""

    def __init__(self, source: str, column: str, form: Form, scratch: str = "") -> None:
        """scratch: data.scratch. Raises DataError."""
        keys = DataConfig(
            source=source,
            image_column=column,
            label_column="",
            test_share=0.0,
            channels=form.channels,
            range=form.range,
            scratch=scratch,
        )
        opened = open_source(keys)
        self.splits: list[EncodedSplit] = [_of_files(split, source) for split in (opened.train, opened.test) if split is not None]

    def __len__(self) -> int:
        return sum(map(len, self.splits))

    def content(self) -> str:
        return digest([split.content() for split in self.splits])

    def some(self, first: int, count: int) -> Iterator[tuple[str, Read]]:
        """(name, read) of `count` images from the `first` on."""
        for split in self.splits:
            ids = range(len(split))[max(first, 0) : max(first + count, 0)]
            split.expect(ids)
            yield from ((split.key(i), partial(split.encoded.read, i)) for i in ids)
            first -= len(split)


def _of_files(split: Split, source: str) -> EncodedSplit:
    if not isinstance(split, EncodedSplit):
        raise DataError(f"{source}: its images are no files")
    return split


def found_in(storage: Storage, source: str, also: frozenset[str]) -> tuple[Found, str]:
    """What lies there (of a single Parquet file it is the name ""), and a digest of its contents; on an object store, of its sizes."""
    try:
        info = storage.system.get_file_info(storage.root)
    except OSError as error:
        raise DataError(f"SOURCE: {source} cannot be read: {unread(storage, error)}") from None
    if info.is_file:
        if source.lower().endswith(SHARDS):
            return Found(shards=[""]), ""
        if not source.lower().endswith(TABLE):
            raise DataError(f"{source}: no image folder and no Parquet file; give the folder that an image lies in")
        return Found(tables=[""]), content_of([Path(storage.root)]) if storage.local else str(info.size)
    if not (info.type or storage.local):
        raise DataError(f"SOURCE: {source}: {absent(storage)}")
    if storage.local:
        found = scan(storage.root, "SOURCE", also=also) if info.type else Found()
        return found, content_of(Files(storage.root, [*found.images, *found.tables] if found.tables else found.images))
    found = scan(Remote(storage), "SOURCE", also=also)
    sizes = [] if found.images.sizes is None else found.images.sizes.tolist()
    return found, digest([*sizes, *(size_of(Remote(storage, name)) for name in found.tables)])


def parts_of(storage: Storage, found: Found, source: str, column: str, size: int) -> Iterator[dict[str, Any]]:
    """{part, names (bytes, relative to the source), group (the row group of Parquet, else -1)}, in the order of names."""
    tables = []
    for name in found.tables:
        with table(_file(storage, name)) as opened:
            if is_image(opened.schema_arrow, column):
                tables.append((name, opened.metadata.num_row_groups))
            elif not found.images:
                place, names = _file(storage, name), ", ".join(opened.schema_arrow.names)
                raise UserError(f"data.image_column: {place} has no images in a column {column!r} (it has {names})")
            else:
                found.skipped[f"{TABLE} without images in a column {column!r}"] += 1
    if tables and found.images:
        both = f"images ({listing(found.images, 1)}) and Parquet with images ({listing([name for name, _ in tables], 1)})"
        raise DataError(f"{source} holds both {both}; give the folder or the file of one")
    if not (tables or found.images):
        there = f"; {note}" if (note := found.note()) else ""
        if storage.local and not Path(storage.root).exists():
            raise DataError(f"SOURCE: {source} does not exist; give a folder, a Parquet file, an archive or an address of one")
        raise DataError(f"{source}: no image and no Parquet file there (images: {', '.join(sorted(SUFFIXES))}{there})")
    groups = [(name, group) for name, count in tables for group in range(count)]
    parts = [([name], group) for name, group in groups] if tables else [
        (found.images[first : first + size], -1) for first in range(0, len(found.images), size)
    ]  # fmt: skip
    for number, (names, group) in enumerate(parts):
        yield {
            "part": number,
            "names": [os.fsencode(name) for name in names],
            "group": group,
        }  # bytes: Arrow has no other strings than UTF-8


def _file(storage: Storage, name: str) -> File:
    """A file of the source by its name; of the source itself it is empty."""
    return (Path(storage.root) / name if name else Path(storage.root)) if storage.local else Remote(storage, name)


def encoded(storage: Storage, source: str, column: str, names: list[str], group: int) -> Iterator[tuple[str, Read]]:
    """(name, read) of each image of a part; read() gives its encoded bytes, None where the file is gone or the cell empty, or raises BrokenImage."""
    if group < 0:
        yield from ((name, partial(_read, storage, name)) for name in names)
        return
    label = names[0] or source.rpartition("/")[2]
    file = _file(storage, names[0])
    read = read_file if storage.local else partial(read_stored, storage)
    with table(file) as opened:
        first = sum(opened.metadata.row_group(i).num_rows for i in range(group))
        cells = opened.read_row_group(group, columns=[column])[column]
    for number, cell in enumerate(cells):
        yield f"{label}#{first + number}", partial(cell_bytes, cell, folder_of(file), read)


def sampled(
    storage: Storage, samples: Samples | None, source: str, column: str, parts: list[dict[str, Any]]
) -> Iterator[tuple[str, bytes | memoryview]]:
    """(name, encoded bytes) of about SAMPLED images from all over the source; those that cannot be read are left out."""
    places = np.unique(np.linspace(0, len(parts) - 1, PLACES).astype(int)).tolist()
    for part in (parts[place] for place in places):
        most = -(-SAMPLED // len(places))
        if samples is not None:
            images = samples.some(part["first"], min(part["count"], most))
        else:
            names = [os.fsdecode(name) for name in part["names"]]
            if part["group"] < 0:
                names = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, most).astype(int)).tolist()]
            images = islice(encoded(storage, source, column, names, part["group"]), most)
        for name, read in images:
            with suppress(BrokenImage):
                if data := read():
                    yield name, data


def _read(storage: Storage, name: str) -> bytes | None:
    """A read that fails is tried again; one that fails for good ends the call, for it says nothing about the image."""
    for pause in (*PAUSES, None):
        try:
            return storage.read(name)
        except FileNotFoundError:
            return None
        except OSError:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("unreachable")
