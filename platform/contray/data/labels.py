"""Labels of Parquet files, joined by name: cat is one class in all files of all splits, whatever its number in each.

A file's labels are strings, or numbers of the class names that its metadata holds, or numbers alone. Numbers alone join by value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import ConfigError, shown
from .layout import alike, alikes, listing, plain
from .places import File

KEY = "data.label_column"
Read = Callable[[File], pa.ChunkedArray]  # the label column of a file


@dataclass
class Labels:
    """Of one split. rows: (N,) names or bare numbers, None where a row has none; names: those that files declare, in their order."""

    rows: list[Any] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    where: str = ""  # the column and a file of it, for messages

    @property
    def values(self) -> list[Any]:
        """The classes in the order of their numbers: declared ones as they were declared, others sorted."""
        return [*self.names, *sorted(set(self.rows).difference(self.names))]

    @property
    def missing(self) -> int:
        return sum(row is None for row in self.rows)


def read_labels(files: Sequence[File], schemas: Sequence[pa.Schema], column: str, read: Read) -> Labels | None:
    """The labels of a split; None where no file has the column. Raises ConfigError where files do not agree, or labels are no labels."""
    having = [column in schema.names for schema in schemas]
    if not any(having):
        return None
    if not all(having):
        raise ConfigError(KEY, f"{files[having.index(True)]} has a column {column!r}, and {files[having.index(False)]} has none")
    found = Labels(where=f"{column!r} of {files[0]}")
    kinds: dict[str, File] = {}
    for file, schema in zip(files, schemas, strict=True):
        rows, names, kind = _of_file(file, schema, column, read)
        kinds.setdefault(kind, file)
        found.rows += rows
        found.names += sorted(set(names).difference(found.names), key=names.index) if found.names else names
    kinds.pop("nothing", None)
    numbers = kinds.pop("numbers", None)
    if numbers and kinds:
        other, file = next(iter(kinds.items()))
        raise ConfigError(
            KEY, f"{column!r} holds {other} in {file} and numbers without names in {numbers}; write both in one way"
        )
    return found


def _of_file(file: File, schema: pa.Schema, column: str, read: Read) -> tuple[list[Any], list[str], str]:
    """(rows, declared names, what they are)."""
    where, kind = f"{column!r} of {file}", schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    words = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (words or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise ConfigError(
            KEY,
            f"{where} is {schema.field(column).type}; labels are integers or strings: cast it, name another column, or give --{KEY} '' for none",
        )
    try:
        rows = read(file).to_pylist()
    except UnicodeDecodeError:
        raise ConfigError(KEY, f"{where} holds bytes that are no text; labels are integers or strings") from None
    if words:
        spelt = {row: None if row is None else plain(row) for row in set(rows)}
        return [spelt[row] for row in rows], [], "strings"
    if all(row is None for row in rows):
        return rows, [], "nothing"
    names = [plain(name) for name in class_names(schema, column)]
    if not names:
        return rows, [], "numbers"
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(KEY, f"the metadata of {file} name the class {twice!r} twice; rename one")
    outside = [row for row in rows if row is not None and not -1 <= row < len(names)]
    if outside:
        raise ConfigError(
            KEY, f"{where} holds {outside[0]}, and the file names {len(names)} classes (0 to {len(names) - 1}); mend one of them"
        )
    return [None if row is None or row < 0 else names[row] for row in rows], names, "numbers of named classes"


def class_names(schema: pa.Schema, column: str) -> list[str]:
    """From the schema's metadata: `classes` (comma-separated) or Hugging Face's features. [] where neither names any."""
    metadata = schema.metadata or {}
    if b"classes" in metadata:
        return metadata[b"classes"].decode(errors="backslashreplace").split(",")
    try:
        found: Any = json.loads(metadata.get(b"huggingface", b"null"))
    except (ValueError, RecursionError):  # no JSON, or no text: some other tool's
        return []
    for key in ("info", "features", column, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    return [str(name) for name in found] if isinstance(found, list) else []


@dataclass(frozen=True)
class Joined:
    """Numbers (N,) of a split's labels, None where it has none; the classes that they number."""

    train: np.ndarray | None
    test: np.ndarray | None
    classes: list[str]
    notes: list[str]


def join(train: Labels | None, test: Labels | None, tests: bool) -> Joined:
    """Numbers for both splits by the training set's classes. tests: whether there are test images.

    A test split whose labels are all hidden (null, -1, or no column) has none. Raises ConfigError where some rows of a split lack theirs, and where
    a test label is no class of the training set.
    """
    if train is None:
        return Joined(None, None, [], [])
    if train.missing:
        raise ConfigError(
            KEY,
            f"{train.where} has {train.missing:,} rows without a label (of {len(train.rows):,}); leave them out, or give --data.label_column ''",
        )
    places = {value: place for place, value in enumerate(train.values)}
    classes = [shown(value) for value in train.values]
    numbers = np.array([places[row] for row in train.rows], np.int64)
    notes = [] if -1 not in places else [f"{train.where} holds -1, which is taken for a class"]
    notes += alikes(value for value in places if isinstance(value, str))
    if test is None or test.missing == len(test.rows) or (-1 not in places and set(test.rows) == {-1}):
        hidden = "have no labels" if test is None else "have hidden labels (null or -1)"
        return Joined(numbers, None, classes, notes + ([f"the test images {hidden}: nothing is tested on them"] if tests else []))
    if test.missing:
        raise ConfigError(KEY, f"{test.where} has {test.missing:,} rows without a label (of {len(test.rows):,}); leave them out")
    if bool(train.names) != bool(test.names) and (isinstance(train.rows[0], int) or isinstance(test.rows[0], int)):
        named, bare = (train, test) if train.names else (test, train)
        raise ConfigError(
            KEY, f"{named.where} holds numbers of named classes, {bare.where} numbers without names; write both in one way"
        )
    unknown = [row for row in test.rows if row not in places]
    if unknown:
        near = alike(str(unknown[0]), map(str, places))
        same = "; write both as text or both as numbers" if str(unknown[0]) in map(str, places) else ""
        mend = f"; it differs from {near!r} in case or spaces alone, rename one" if near else same
        raise ConfigError(
            KEY, f"{test.where} holds {unknown[0]!r}, which is no class of the training set ({listing(classes, 10)}){mend}"
        )
    return Joined(numbers, np.array([places[row] for row in test.rows], np.int64), classes, notes)
