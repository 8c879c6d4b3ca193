"""Hugging Face's data sets on disk: what `save_to_disk` writes, and the library's cache. Both are Arrow files, read without the library.

A record batch holds its images one after the other, so that an index of where each begins is all that reading them takes (ranges.py). The class names stand
in the schema's metadata. Parquet of the hub's cache is Parquet.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from ..config.sections import DataConfig
from ..errors import ConfigError, DataError, shown
from .labels import KEY, class_names
from .parquet import check_images, divide
from .places import File, opened
from .ranges import NONE, Index
from .splits import EncodedSplit
from .webdataset import joined, parts_of

_ENDS = (b"\xff\xff\xff\xff\0\0\0\0", b"ARROW1")  # of a stream and of a file


def open_arrow(root: File, names: Sequence[str], config: DataConfig) -> tuple[EncodedSplit, EncodedSplit | None, list[str]]:
    """(train, test or None, notes). names: relative to the folder `root`; that of a single file is "". Raises ConfigError or DataError."""
    used = list(names) if "" in names else _used(root, names)
    split_of, notes = ({"": "train"}, []) if "" in used else divide(used, str(root), "Arrow")
    look = partial(_look, image=config.image_column, label=config.label_column)
    parts = parts_of(root, split_of, config, look)
    if not parts["train"].starts[-1]:
        raise DataError(f"data.source: {shown(parts['train'].files[0])} has no rows")
    return joined(parts, config, notes, f"no column {config.label_column!r}, or nothing in it", texts=True)


def _used(root: File, names: Sequence[str]) -> list[str]:
    """The files that hold the set: those that a state.json beside them names, and none that the library keeps of what was computed from them."""
    found: list[str] = []
    for folder in dict.fromkeys(name.rpartition("/")[0] for name in names):
        here = [name for name in names if name.rpartition("/")[0] == folder]
        state = _json(root / (f"{folder}/state.json" if folder else "state.json"))
        if state.get("_indices_data_files"):
            raise DataError(
                f"data.source: {shown(root)}/{folder} is a selection of rows; save it with flatten_indices().save_to_disk"
            )
        listed = state.get("_data_files")
        named = {each.get("filename") for each in listed if isinstance(each, dict)} if isinstance(listed, list) else None
        last = {name: name.rpartition("/")[2] for name in here}
        missing = sorted(str(name) for name in (named or set()) - set(last.values()))
        if missing:
            raise DataError(
                f"data.source: {shown(root)}/{folder} lacks {shown(missing[0])}, which its state.json names; fetch it again"
            )
        found += [name for name in here if (last[name] in named if named else not last[name].startswith(("cache-", "indices")))]
    if not found:
        raise DataError(f"data.source: {shown(root)} holds no data set, only what was computed from one ({names[0]})")
    return found


def _json(file: File) -> dict[str, Any]:
    with suppress(OSError, ValueError), opened(file) as source:
        found = json.loads(source.read())
        return found if isinstance(found, dict) else {}
    return {}


def _look(fd: int, size: int, file: File, *, image: str, label: str) -> Index:
    """Where the images of a file lie. It is mapped for as long as that takes, of which the places of the images are touched alone."""
    if size < 16:
        raise DataError(f"data.source: {shown(file)} is no Arrow file ({size} bytes); fetch it again, or leave it out")
    whole = pa.py_buffer(mmap.mmap(fd, size, access=mmap.ACCESS_READ))
    offsets, sizes, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    values, names = dict[Any, int](), list[str]()
    try:
        batches = _batches(whole)
        schema = next(batches)
        check_images(file, schema, image)
        wanted = bool(label) and label in schema.names
        names = class_names(schema, label) if wanted else []
        for batch in batches:
            at, length = _places(batch.column(image), whole, file)
            offsets.append(at)
            sizes.append(length)
            labels.append(_numbers(batch.column(label), names, values, file) if wanted else np.full(batch.num_rows, -1, np.int32))
    except (pa.ArrowException, OSError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"data.source: {shown(file)} is no Arrow file, or damaged ({line}); fetch it again, or leave it out"
        ) from None
    end = whole.slice(size - 8).to_pybytes()
    if not any(end.endswith(each) for each in _ENDS):
        raise DataError(f"data.source: {shown(file)} is cut off; fetch it again, or leave it out")
    none = np.zeros(0, np.int64)
    facts = {"classes": names}
    return Index(
        size,
        np.concatenate(offsets),
        np.concatenate(sizes),
        none,
        none.astype(np.uint8),
        np.concatenate(labels),
        list(values),
        facts,
    )


def _batches(whole: pa.Buffer) -> Iterator[Any]:
    """The schema, then the record batches, of which nothing is copied."""
    source = pa.BufferReader(whole)
    if whole.slice(0, 6).to_pybytes() == b"ARROW1":
        found = pa.ipc.open_file(source)
        yield found.schema
        yield from (found.get_batch(i) for i in range(found.num_record_batches))
    else:
        stream = pa.ipc.open_stream(source)
        yield stream.schema
        yield from stream


def _places(column: pa.Array, whole: pa.Buffer, file: File) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, sizes) in the file of the images of a batch; where there are no bytes, of the path."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    offsets, sizes = np.zeros(len(column), np.int64), np.full(len(column), NONE, np.int64)
    fields = (
        {name: column.field(name) for name in ("path", "bytes") if column.type.get_field_index(name) >= 0}
        if pa.types.is_struct(column.type)
        else {"bytes": column}
    )
    for name, cells in fields.items():
        if pa.types.is_null(cells.type):
            continue
        long = pa.types.is_large_binary(cells.type) or pa.types.is_large_string(cells.type)
        if not (long or pa.types.is_binary(cells.type) or pa.types.is_string(cells.type)):
            raise ConfigError("data.image_column", f"{shown(file)} holds images as {cells.type}; cast them to binary")
        _, ends, data = cells.buffers()
        if data is None or not data.size:
            begin, bounds = 0, np.zeros(len(cells) + 1, np.int64)
        else:
            begin = data.address - whole.address
            if not 0 <= begin <= whole.size - data.size:
                raise DataError(
                    f"data.source: {shown(file)} is compressed, so that no image of it can be read by itself; save it without compression"
                )
            kind = np.int64 if long else np.int32
            bounds = np.frombuffer(ends, kind)[cells.offset : cells.offset + len(cells) + 1].astype(np.int64)
        there = cells.is_valid().to_numpy(zero_copy_only=False) & column.is_valid().to_numpy(zero_copy_only=False)
        length = np.diff(bounds)
        there &= (length > 0) | (name == "bytes")
        offsets[there] = begin + bounds[:-1][there]
        sizes[there] = length[there] if name == "bytes" else NONE - 1 - length[there]
    return offsets, sizes


def _numbers(column: pa.Array, names: list[str], values: dict[Any, int], file: File) -> np.ndarray:
    """(rows,) int32 numbers of `values`, which grows; -1 for none."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise ConfigError(
            KEY,
            f"the labels of {shown(file)} are {column.type}; labels are integers or strings: name another column, or give --{KEY} ''",
        )
    found = np.full(len(column), -1, np.int32)
    for place, value in enumerate(column.to_pylist()):
        if names and isinstance(value, int):
            if value >= len(names) or value < -1:
                raise ConfigError(KEY, f"{shown(file)} holds the label {value}, and names {len(names)} classes; mend one of them")
            value = names[value] if value >= 0 else None
        if value is not None:
            found[place] = values.setdefault(value, len(values))
    return found
