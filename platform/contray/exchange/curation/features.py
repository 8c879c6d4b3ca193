"""Features of many images, as `contray embed` writes them, read part by part into a file that is mapped."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DataError, UserError
from ...storage.folder import Storage
from ...storage.logins import bare

Show = Callable[[dict[str, Any]], None]
PLAN = "_plan.json"  # whose features lie there
ROWS = 4096  # that are read at once
_PART = re.compile(r"part-(\d+)\.parquet")


@dataclass(frozen=True)
class Features:
    """names: (N,) of the images; x: (N, D) float32 of unit length, mapped from a file that nobody sees. broken: images without usable features."""

    names: pa.Array
    x: np.ndarray
    broken: int

    def take(self, ids: np.ndarray) -> Features:
        """Those of these rows (n,), ascending, in the same file."""
        for first in range(0, len(ids), ROWS):
            some = ids[first : first + ROWS]
            self.x[first : first + len(some)] = self.x[some]  # a row comes from where it stands or from behind
        return Features(self.names.take(pa.array(ids)), self.x[: len(ids)], self.broken)


def read_as(address: str) -> dict[str, Any]:
    """Keys data.* by which the images of features were read, as far as contray embed noted them."""
    storage = Storage(address)
    try:
        plan = json.loads(storage.read(PLAN)) if PLAN in storage.names() else {}
        known = {"image_column": plan.get("column"), "channels": plan.get("channels"), "range": tuple(plan.get("range") or ())}
    except (OSError, ValueError, TypeError, AttributeError):  # of a file, or damaged: embed itself says so
        return {}
    return {key: value for key, value in known.items() if value}


def read_features(address: str, show: Show = lambda message: None) -> Features:
    """What lies in a folder of `contray embed`, or in other Parquet with columns name and embedding, in the order of the files.

    Rows without an embedding, or with one that is not finite or has no length, are counted and left out. Raises UserError and DataError where
    there are none, parts are missing, or rows are of several widths.
    """
    from pyarrow import fs

    storage = Storage(address)
    kind = storage.system.get_file_info(storage.root).type
    if kind == fs.FileType.NotFound:
        raise UserError(f"FEATURES: {bare(address)} does not exist; contray embed SRC --out FOLDER writes it")
    files = [""] if kind == fs.FileType.File else [name for name in storage.names() if name.endswith(".parquet")]
    if not files:
        raise UserError(f"FEATURES: {bare(address)} holds no features; contray embed SRC --out FOLDER writes some")
    parts = [int(match[1]) for name in files if (match := _PART.fullmatch(name))]
    absent = sorted(set(range(max(parts, default=-1) + 1)) - set(parts))
    if absent:
        raise UserError(
            f"FEATURES: {bare(address)} lacks part {absent[0]}, as where contray embed was cut off; the same command goes on"
        )
    places = [f"{storage.root}/{name}" if name else storage.root for name in files]
    count = sum(_rows(storage, place) for place in places)
    x, names, kept, seen = np.zeros((0, 0), np.float32), list[pa.Array](), 0, 0
    for place, batch in ((each, batch) for each in places for batch in _batches(storage, each)):
        seen += len(batch)
        found, rows = _usable(place, batch)
        if len(rows) and not kept:
            x = _mapped(count, rows.shape[1])
        if len(rows) and rows.shape[1] != x.shape[1]:
            raise DataError(
                f"{place}: features of {rows.shape[1]} numbers, before they were {x.shape[1]}; embed all with one encoder"
            )
        x[kept : kept + len(rows)] = rows
        kept += len(rows)
        names.append(found)
        show({"step": seen, "total": count, "unit": "image", "phase": "features"})
    if not kept:
        raise UserError(f"FEATURES: none of the {count:,} images in {bare(address)} has features; look at the column error")
    return Features(pa.chunked_array(names).combine_chunks(), x[:kept], count - kept)


def _rows(storage: Storage, place: str) -> int:
    try:
        with storage.system.open_input_file(place) as file:
            found = pq.ParquetFile(file)
            names = found.schema_arrow.names
            if "name" in names and "embedding" in names:
                return found.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{place} is no readable Parquet file ({str(error).splitlines()[0]})") from None
    raise UserError(f"FEATURES: {place} has no columns name and embedding (it has {', '.join(names)}); contray embed writes them")


def _batches(storage: Storage, place: str) -> Iterator[pa.RecordBatch]:
    try:
        with storage.system.open_input_file(place) as opened, pq.ParquetFile(opened) as file:
            yield from file.iter_batches(ROWS, columns=["name", "embedding"])
    except pa.ArrowException as error:
        raise DataError(f"{place} is damaged ({str(error).splitlines()[0]}); embed its images again") from None


def _mapped(count: int, width: int) -> np.ndarray:
    with tempfile.TemporaryFile() as file:  # gone when nobody maps it any longer
        return np.memmap(file, np.float32, "w+", shape=(count, width))


def _usable(place: str, batch: pa.RecordBatch) -> tuple[pa.Array, np.ndarray]:
    """Names (n,) and unit features (n, D) of a batch's usable rows."""
    batch = batch.filter(batch.column("embedding").is_valid())
    try:
        column = batch.column("embedding").cast(pa.list_(pa.float32()))
        names = batch.column("name").cast(pa.large_string())
    except pa.ArrowException as error:
        raise DataError(f"{place}: names must be texts and embeddings lists of numbers ({str(error).splitlines()[0]})") from None
    widths = column.value_lengths().unique().to_pylist()
    if len(widths) > 1:
        raise DataError(f"{place}: features of {widths[0]} and of {widths[1]} numbers; embed all with one encoder")
    rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1 if len(column) else 0)
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(rows.astype(np.float64), axis=1) if len(rows) else np.zeros(0)
    good = np.isfinite(length) & (length > 0)
    return names.filter(pa.array(good)), (rows[good] / length[good, None]).astype(np.float32)
