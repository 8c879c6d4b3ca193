"""Parquet in the Hugging Face layout: a column of encoded images and perhaps one of labels.

An image is bytes, or a struct of `bytes` and `path`; where there are no bytes, the path names a file below the Parquet file's folder. Every file
is read by its own schema. Opening reads metadata and labels only; rows.py says what the encoded images take.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..config.sections import DataConfig
from ..errors import ConfigError, DataError, shown
from ..storage.folder import Storage
from .content import absent, content_of
from .digests import digest
from .labels import KEY, Labels, join, read_labels
from .layout import WORDS, besides_splits, listing, scan, splits_in
from .pixels import BrokenImage
from .places import File, Remote, content, folder_of
from .rows import Rows, table
from .splits import Encoded, EncodedSplit

_MEND = "name the files train* and test*, or give the file or folder that you mean"


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a file or folder, in any nesting."""
    return [path] if path.is_file() else [path / name for name in scan(path).tables]


def open_parquet(
    root: File, footers: Mapping[str, Footer], config: DataConfig
) -> tuple[EncodedSplit, EncodedSplit | None, list[str]]:
    """(train, test or None, notes on what was taken for what).

    footers: of all files, by their names relative to the folder `root`; the name of a single file that was asked for is "".
    """
    split_of, notes = ({"": "train"}, []) if "" in footers else divide(list(footers), str(root))

    def part(split: str) -> _Part | None:
        own = {name: footer for name, footer in footers.items() if split_of[name] == split}
        return _Part(root, own, config) if own else None

    fit, tested = part("train"), part("test")
    assert fit is not None
    if fit.labels is None and config.label_column:
        column, names = config.label_column, ", ".join(fit.schemas[0].names)
        if column != DataConfig.label_column:
            raise ConfigError(KEY, f"{fit.files[0]} has no column {column!r}; it has {names}")
        notes.append(f"no labels: no column {column!r} in {fit.files[0].name}, which has {names} (choose with --{KEY})")
    joined = join(fit.labels, None if tested is None else tested.labels, tested is not None)
    if (
        tested is not None
        and fit.labels is not None
        and joined.test is None
        and (spare := part("val")) is not None
        and spare.labels is not None
    ):
        other = join(fit.labels, spare.labels, True)
        if other.test is not None:  # of ImageNet and its like the test images' labels are secret
            notes = [note for note in notes if not note.startswith("not used: ")]
            notes.append(
                f"the labels of {tested.files[0].name} are hidden (null or -1): {spare.files[0].name} tests in its place"
            )
            joined, tested = other, spare
    train_split = fit.split(joined.train, joined.classes)
    test_split = None if tested is None else tested.split(joined.test, joined.classes)
    return train_split, test_split, notes + joined.notes


def divide(names: Sequence[str], root: str, kind: str = "Parquet") -> tuple[dict[str, str], list[str]]:
    """The split of each file (train, test, or "val" where another tests), by its name or its folder's, and notes. Raises DataError.

    Where no name speaks of a split, all files train.
    """
    spoken: dict[str, str] = {}
    sets: dict[str, str] = {}
    for name in names:
        *folders, file = name.split("/")
        found = [splits_in(part) for part in (file.rpartition(".")[0], *reversed(folders))]
        if len(found[0]) > 1 or len(set().union(*(each for each in found if len(each) == 1))) > 1:
            raise DataError(f"data.source: {root}/{name} speaks of {' and '.join(sorted(set().union(*found)))} at once; {_MEND}")
        spoken[name] = next((next(iter(each)) for each in found if len(each) == 1), "")
        sets.setdefault("/".join(filter(None, map(besides_splits, folders))), name)
    if len(sets) > 1:
        raise DataError(
            f"data.source: {root} has several sets side by side ({listing(list(sets.values()))}); give the folder of one"
        )
    kinds = {split: [name for name in names if spoken[name] == split] for split in (*WORDS, "")}
    if kinds[""] and len(kinds[""]) < len(names):
        taken = ", ".join(f"{kinds[split][0]} was taken for {split}" for split in WORDS if kinds[split])
        raise DataError(f"data.source: in {root} {taken}, but {listing(kinds[''])} is no split; {_MEND}")
    if not kinds["train"] and not kinds[""]:
        raise DataError(f"data.source: {root} has no train*.{kind.lower()} (it has {listing(names)}); {_MEND}")
    stems = {
        split: {besides_splits(name.rpartition("/")[2].rpartition(".")[0]) for name in of} for split, of in kinds.items() if of
    }
    first = next(iter(stems.values()))
    if len(stems) > 1 and len(first) > 1 and all(each == first for each in stems.values()):
        raise DataError(
            f"data.source: {root} has several sets side by side ({listing(names)}); give the files of one a folder of their own"
        )
    notes = []
    if kinds[""] and len(names) > 1:
        notes.append(f"no name of the {len(names):,} {kind} files speaks of a split: all of them train")
    if kinds["test"] and kinds["val"]:
        notes.append(f"not used: {listing(kinds['val'], 3)}; {kinds['test'][0]} tests, and training holds out its own")
    tests = "test" if kinds["test"] else "val"
    return {name: {"": "train", "train": "train", tests: "test"}.get(split, split) for name, split in spoken.items()}, notes


@dataclass(frozen=True)
class Footer:
    """What a Parquet file says of itself."""

    schema: pa.Schema
    rows: int


def footer_of(file: File) -> Footer:
    """Raises DataError."""
    with table(file) as found:
        return Footer(found.schema_arrow, found.metadata.num_rows)


def is_image(schema: pa.Schema, column: str) -> bool:
    """Whether the column can hold encoded images: bytes, or a struct of bytes and path, or of one of them."""
    if schema.names.count(column) != 1:
        return False
    kind = schema.field(column).type
    return pa.types.is_null(kind) or _kind_of(kind) == "image"  # null: writers that guess types make it of a file without rows


def check_images(file: File, schema: pa.Schema, column: str) -> None:
    """Raises DataError or ConfigError where the columns are not told apart by name, or the named one holds no images."""
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise DataError(f"data.source: {file} has several columns {twice[0]!r}; rename one")
    if column not in schema.names:
        raise ConfigError("data.image_column", f"{file} has no column {column!r}; it has {', '.join(schema.names)}")
    if not is_image(schema, column):
        kind = schema.field(column).type
        raise ConfigError(
            "data.image_column", f"{column!r} of {file} is {kind}, not encoded images (binary, or a struct with bytes or a path)"
        )


def named_files(file: File, column: str) -> set[str]:
    """The files that the rows of a column of images name, where some of them have no bytes: absolute, and below the table's folder."""
    with table(file) as found:
        kind = found.schema_arrow.field(column).type
        if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
            return set()
        chunks = [
            found.metadata.row_group(group).column(i)
            for group in range(found.metadata.num_row_groups)
            for i in range(found.metadata.num_columns)
            if found.metadata.schema.column(i).path == f"{column}.bytes"
        ]
        if chunks and all(chunk.statistics is not None and chunk.statistics.null_count == 0 for chunk in chunks):
            return set()
        try:
            paths = found.read(columns=[f"{column}.path"])[column].to_pylist()
        except UnicodeDecodeError:  # then reading a row says so
            return set()
    places = {below(folder_of(file), row["path"]) for row in paths if row is not None and row["path"]}
    return {place for place in places if place is not None}


def _read_column(file: File, name: str) -> pa.ChunkedArray:
    """A whole column. Raises DataError naming the damaged file, or OSError where the system could not read, perhaps for now."""
    with table(file) as found:
        return found.read(columns=[name])[name]


def read_file(place: str) -> bytes:
    """Raises FileNotFoundError for whatever is no file: a pipe is never opened."""
    if not stat.S_ISREG(os.stat(place).st_mode):
        raise FileNotFoundError(place)
    return Path(place).read_bytes()


def read_stored(storage: Storage, place: str) -> bytes:
    """place: absolute, also where the store's own names have no slash before them. Raises FileNotFoundError for whatever is no file."""
    with storage.system.open_input_file(place if storage.root.startswith("/") else place[1:]) as file:
        return file.read()


def below(folder: Path, path: str) -> str | None:
    """Where the file lies that a row names; None where the path leads out of the table's folder: a stranger's table must not choose what is read."""
    base = os.path.abspath(folder)
    place = os.path.normpath(os.path.join(base, path))
    return place if place.startswith(os.path.join(base, "")) else None


def cell_bytes(value: Any, folder: Path, read: Callable[[str], bytes] = read_file) -> bytes | memoryview | None:
    """The encoded image of a cell: its bytes, else what `read` gives of the file below `folder` that its path names; None where it has neither.

    value: an Arrow scalar or what it is in Python, binary or a struct. Raises BrokenImage where the path leads out of `folder` or to no file.
    """
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    if isinstance(value, pa.Scalar) and not value.is_valid:
        return None
    if isinstance(value, Mapping):
        path: Any = value.get("path")
        data = cell_bytes(value.get("bytes"), folder)
        if data is not None:
            return data
        named = path.as_py() if isinstance(path, pa.Scalar) else path
        if not named:
            return None
        place = below(folder, named)
        if place is None:
            raise BrokenImage(shown(named), f"the path leads out of {shown(folder)}")
        try:
            return read(place)
        except (OSError, ValueError) as error:
            if not absent(error):
                raise
            raise BrokenImage(shown(place), f"the file {named!r} that the row names is not there") from None
    if isinstance(value, pa.Scalar):
        return memoryview(value.as_buffer())  # pyright: ignore[reportAttributeAccessIssue]
    return value


def _kind_of(kind: pa.DataType) -> str:
    """image, array, text, or "" for what no view is drawn from."""
    if pa.types.is_struct(kind):
        fields = {name: kind.field(name).type for name in ("bytes", "path") if kind.get_field_index(name) >= 0}
        wanted = {"bytes": "image", "path": "text"}
        return (
            "image" if fields and all(pa.types.is_null(of) or _kind_of(of) == wanted[name] for name, of in fields.items()) else ""
        )
    if pa.types.is_dictionary(kind):
        return _kind_of(kind.value_type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return "image"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    for _ in range(2):
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
            if pa.types.is_floating(kind) or pa.types.is_integer(kind):
                return "array"
    return ""


class _Column:
    """Reads a column by row number."""

    def __init__(self, rows: Rows, kind: str) -> None:
        self.rows, self.kind = rows, kind

    def __call__(self, i: int) -> Any:
        return self.value(i, self.rows[i])

    def value(self, i: int, cell: pa.Scalar) -> Any:
        """What a view is drawn from of row i. Raises BrokenImage."""
        file, _ = self.rows.place(i)
        try:
            found = self._image(cell, self.rows.files[file]) if self.kind == "image" else cell.as_py()
        except UnicodeDecodeError:
            raise BrokenImage(self.where(i), f"column {self.rows.column!r} is no text") from None
        return self._array(i, found) if self.kind == "array" and found is not None else found

    def _image(self, cell: pa.Scalar, file: File) -> bytes | memoryview | None:
        read = partial(read_stored, file.storage) if isinstance(file, Remote) else read_file
        return cell_bytes(cell, folder_of(file), read)

    def _array(self, i: int, found: Any) -> np.ndarray:
        """What no window may be cut from is broken: one value that is not finite would end a training."""
        try:
            with np.errstate(over="ignore"):  # said below
                array = np.asarray(found, np.float32)
        except (TypeError, ValueError):  # the first: a channel is null
            raise BrokenImage(self.where(i), f"the channels in column {self.rows.column!r} are of several lengths") from None
        if not np.isfinite(array).all():
            raise BrokenImage(self.where(i), f"column {self.rows.column!r} holds values that are not finite")
        return array

    def where(self, i: int) -> str:
        file, row = self.rows.place(i)
        return f"{shown(self.rows.files[file])} row {row}"

    def sample(self, count: int) -> Iterator[tuple[int, Any]]:
        """(row, value) of about `count` rows from all over the files; those that cannot be read are left out."""
        for i, cell in self.rows.some(count):
            with suppress(BrokenImage):
                yield i, self.value(i, cell)

    def stream(self) -> Iterator[Callable[[], Any]]:
        """How to read each row, in order."""
        return (partial(self.value, i, cell) for i, cell in enumerate(self.rows))


class _Part:
    """The files of one split: checked on construction, read at the first use."""

    def __init__(self, root: File, footers: Mapping[str, Footer], config: DataConfig) -> None:
        """footers: by the files' names relative to `root`; of `root` itself it is ""."""
        self.files = [root / name if name else root for name in footers]
        self.names = [name or root.name for name in footers]
        self.schemas, self.config = [footer.schema for footer in footers.values()], config
        for file, schema in zip(self.files, self.schemas, strict=True):
            check_images(file, schema, config.image_column)
        self.rows = np.cumsum([0, *(footer.rows for footer in footers.values())])
        if not self.rows[-1]:
            raise DataError(f"data.source: {self.files[0]} has no rows")
        self.images = self._column(config.image_column, "image")
        self.labels: Labels | None = None
        if config.label_column:
            self.labels = read_labels(
                self.files, self.schemas, config.label_column, partial(_read_column, name=config.label_column)
            )

    def split(self, labels: np.ndarray | None, classes: list[str]) -> EncodedSplit:
        """The split with its labels as numbers of `classes`."""
        encoded = Encoded(
            int(self.rows[-1]), self.images, self._describe, self._content, self._key, self.images.rows.close,
            sample=self.images.sample, stream=self.images.stream, memory=self.images.rows.memory, shards=self.images.rows.shards,
        )  # fmt: skip
        known, others = classes if labels is not None else [], self._others()
        split = EncodedSplit(encoded, self.config.memory_gb, labels, known, others, self.config.shorter_side)
        split.absent = {
            name: self._why(name) for name in self.schemas[0].names if name not in (*others, self.config.image_column)
        }
        return split

    def _column(self, name: str, kind: str) -> _Column:
        return _Column(Rows(self.files, self.rows, name, self.config.scratch, self.config.disk_gb), kind)

    def _others(self) -> dict[str, tuple[str, Callable[[int], Any]]]:
        """Every further column of all files that a view could be drawn from: images, lists of numbers (of lists: channels first), texts."""
        found = {}
        for name in self.schemas[0].names:
            kinds = {_kind_of(schema.field(name).type) if name in schema.names else "" for schema in self.schemas}
            kind = kinds.pop()
            if kind and not kinds and name != self.config.image_column:
                found[name] = (kind, self._column(name, kind))
        return found

    def _why(self, name: str) -> str:
        """Why no view can be drawn from a column."""
        kinds = {
            str(schema.field(name).type) if name in schema.names else "absent": file
            for file, schema in zip(self.names, self.schemas, strict=True)
        }
        if len(kinds) > 1:
            return "it is " + ", but ".join(f"{kind} in {file}" for kind, file in kinds.items())
        (kind,) = kinds
        return f"it is {kind}, and views are drawn from encoded images, texts and lists of numbers" + (
            ": keep one text of each list" if "string" in kind else ""
        )

    def _describe(self, i: int) -> str:
        return self.images.where(i)

    def _key(self, i: int) -> str:
        """The file, by its path within the source, and the number of the row in it: rows and files may come behind."""
        file, row = self.images.rows.place(i)
        return f"{self.names[file]} {row}"

    def _content(self) -> str:
        """Of the tables and of every file that they name, in whichever column: a view may be drawn from it."""
        columns = [name for name, (kind, _) in self._others().items() if kind == "image"]
        named = set[str]().union(
            *(named_files(file, column) for file in self.files for column in (self.config.image_column, *columns))
        )
        names = sorted(named)
        return digest(self.rows, content(self.files), content_of(names) if isinstance(self.files[0], Path) else names)
