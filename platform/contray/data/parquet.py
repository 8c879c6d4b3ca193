"""Parquet in the Hugging Face layout: a column of encoded images (bytes, or a struct with `bytes`) and perhaps one of labels.

Opening reads metadata and labels only. What the encoded images take is said in `rows`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError, DataError
from ..sections import DataConfig
from .digests import digest
from .folder import TEST_NAMES
from .rows import Rows, too_little_memory
from .splits import Encoded, EncodedSplit


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a file or folder (its own and those one level down, as in `data/train-00000.parquet`)."""
    if path.is_file():
        return [path]
    return sorted([*path.glob("*.parquet"), *path.glob("*/*.parquet")])


def open_parquet(path: Path, files: Sequence[Path], config: DataConfig) -> tuple[EncodedSplit, EncodedSplit | None]:
    """(train, test or None), by the names of files and their folders: train*, and test* or else val*.

    Without any train*, files whose names say nothing are the training set.
    """
    parts = {file: _part(file, path) for file in files}
    train = [file for file in files if parts[file] == "train"] or [file for file in files if parts[file] == ""]
    if not train:
        raise DataError(f"data.source: {path} has no train*.parquet (it has {', '.join(file.name for file in files[:5])})")
    names = [name for name in TEST_NAMES if name in parts.values()][:1]
    test = [file for file in files if parts[file] in names]
    fit = _Part(train, config)
    values = None if fit.labels is None else fit.values()
    if not test:
        return fit.split(values), None
    return fit.split(values), _Part(test, config, needs_labels=values is not None).split(values)


def _part(file: Path, root: Path) -> str:
    """train, test, val, validation, or "" where the name says nothing. A single file is always training data."""
    if file == root:
        return "train"
    for piece in (file.name, file.parent.name if file.parent != root else ""):
        for name in ("train", "test", "validation", "val"):
            if piece.startswith(name):
                return name
    return ""


def _metadata(file: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"data.source: {file} is no readable Parquet file: {str(error).splitlines()[0]}") from error


def _read_column(files: Sequence[Path], name: str) -> pa.ChunkedArray:
    """A whole small column. Raises DataError naming the damaged file, or OSError where the system could not read, perhaps for now."""
    try:
        return pq.read_table(list(files), columns=[name])[name]
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise too_little_memory(files[0], error) from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        if len(files) > 1:
            for file in files:
                _read_column([file], name)
        reason = str(error).splitlines()[0]
        raise DataError(f"data.source: {files[0]} is damaged ({reason}); fetch it again, or leave it out") from None


def _kind_of(kind: pa.DataType) -> str:
    """image, array, text, or "" for what no view is drawn from."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return _kind_of(kind.field("bytes").type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "image"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    for _ in range(2):
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
            if pa.types.is_floating(kind) or pa.types.is_integer(kind):
                return "array"
    return ""


class _Column:
    """Reads a further column by row number."""

    def __init__(self, rows: Rows, kind: str) -> None:
        self.rows, self.kind = rows, kind

    def __call__(self, i: int) -> Any:
        cell = self.rows[i]
        if self.kind == "image":
            return cell_bytes(cell)
        value = cell.as_py()
        return np.asarray(value, np.float32) if self.kind == "array" and value is not None else value


def cell_bytes(cell: pa.Scalar) -> memoryview | None:
    """The encoded image in a cell: binary, or a struct with `bytes`."""
    if pa.types.is_struct(cell.type):
        cell = cell["bytes"] if cell.is_valid else pa.scalar(None, pa.binary())
    buffer = cell.as_buffer()
    return None if buffer is None else memoryview(buffer)


class _Part:
    """The files of one split: checked on construction, read at the first use."""

    def __init__(self, files: Sequence[Path], config: DataConfig, needs_labels: bool = False) -> None:
        self.files, self.config = files, config
        self.metas = [_metadata(file) for file in files]
        self.schema = self.metas[0].schema.to_arrow_schema()
        self.rows = np.cumsum([0, *(meta.num_rows for meta in self.metas)])
        if not self.rows[-1]:
            raise DataError(f"data.source: {files[0]} has no rows")
        self._check_images()
        self._images = Rows(files, config.image_column, config.scratch)
        self.labels = self._read_labels(needs_labels)

    def split(self, values: list[Any] | None) -> EncodedSplit:
        """The split with its labels as numbers: places in `values`, the training set's label values."""
        labels, classes = None, []
        if values is not None and self.labels is not None:
            places = {value: place for place, value in enumerate(values)}
            unknown = [value for value in self.labels if value not in places]
            if unknown:
                where = f"{self.config.label_column!r} of {self.files[0]}"
                raise ConfigError("data.label_column", f"{where} holds {unknown[0]!r}, which is no class of the training set")
            labels = np.array([places[value] for value in self.labels], np.int64)
            classes = self._class_names() or [str(value) for value in values]
        encoded = Encoded(
            int(self.rows[-1]), lambda i: cell_bytes(self._images[i]), self._describe, self._content, self._images.close,
            sample=lambda count: ((i, cell_bytes(cell)) for i, cell in self._images.some(count)),
            stream=lambda: map(cell_bytes, self._images), memory=self._images.memory,
        )  # fmt: skip
        return EncodedSplit(encoded, self.config.cache_gb, labels, classes, self._others())

    def values(self) -> list[Any]:
        """The label values in class order: 0, 1, ... where the file names its classes, else those that occur."""
        names = self._class_names()
        return list(range(len(names))) if names else sorted(set(self.labels or ()))

    def _check_images(self) -> None:
        column = self.config.image_column
        names = self.schema.names
        if column not in names:
            raise ConfigError("data.image_column", f"{self.files[0]} has no column {column!r}; it has {', '.join(names)}")
        kind = self.schema.field(column).type
        binary = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        if not (pa.types.is_binary(binary) or pa.types.is_large_binary(binary)):
            raise ConfigError(
                "data.image_column",
                f"{column!r} of {self.files[0]} is {kind}, not encoded images (binary, or a struct with bytes)",
            )

    def _read_labels(self, needed: bool) -> list[Any] | None:
        column = self.config.label_column
        if column not in self.schema.names:
            if column and (needed or column != DataConfig.label_column):
                names = ", ".join(self.schema.names)
                raise ConfigError("data.label_column", f"{self.files[0]} has no column {column!r}; it has {names}")
            return None
        kind = self.schema.field(column).type
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_dictionary(kind)
        ):
            raise ConfigError("data.label_column", f"{column!r} of {self.files[0]} is {kind}; labels are integers or strings")
        labels = _read_column(self.files, column)
        if labels.null_count:
            raise ConfigError("data.label_column", f"{column!r} of {self.files[0]} has {labels.null_count} rows without a label")
        return labels.to_pylist()

    def _class_names(self) -> list[str]:
        """From the schema's metadata: `classes` (comma-separated) or Hugging Face's features. [] without, and for strings."""
        metadata = self.schema.metadata or {}
        if self.labels and isinstance(self.labels[0], str):
            return []
        if b"classes" in metadata:
            return metadata[b"classes"].decode().split(",")
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return list(features.get(self.config.label_column, {}).get("names") or [])

    def _others(self) -> dict[str, tuple[str, Callable[[int], Any]]]:
        """Every further column that a view could be drawn from: images, lists of numbers (of lists: channels first), texts."""
        found = {}
        for field in self.schema:
            kind = _kind_of(field.type)
            if kind and field.name != self.config.image_column:
                found[field.name] = (kind, _Column(Rows(self.files, field.name, self.config.scratch), kind))
        return found

    def _describe(self, i: int) -> str:
        file = int(np.searchsorted(self.rows, i, side="right")) - 1
        return f"{self.files[file]} row {i - int(self.rows[file])}"

    def _content(self) -> str:
        """Row counts, compressed sizes and value ranges of all column chunks: what Parquet's footer knows of the data."""
        facts = []
        for meta in self.metas:
            for group in (meta.row_group(g) for g in range(meta.num_row_groups)):
                chunks = [group.column(c) for c in range(group.num_columns)]
                facts.append(
                    (group.num_rows, [(c.path_in_schema, c.total_compressed_size, c.total_uncompressed_size) for c in chunks])
                )
        return digest(facts)
