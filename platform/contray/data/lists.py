"""Lists of images that people have: text with a name on each line, or a table with a column `name` and perhaps one of `label`.

Text is a name a line; lines that begin with # and empty ones are skipped, a byte order mark and ends of lines of any system are understood,
and bytes that are no UTF-8 stand for the same bytes in a file's name. A table is .csv or .tsv with a heading, or .parquet. A path, or an
address such as s3://bucket/list.txt.
"""

from __future__ import annotations

import codecs
import csv
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import ConfigError
from ..storage.folder import Storage
from ..storage.logins import bare
from .digests import digest

TABLES = (".csv", ".tsv", ".parquet")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Listed:
    """What a list says. names: (M,) in its order; labels: (M,) texts, None where it has none; spaced: whether a line may be a name and a label."""

    key: str
    place: str
    names: list[str]
    labels: list[str] | None = None
    spaced: bool = False

    @cached_property
    def digest(self) -> str:
        return digest(self.names, self.labels)

    @cached_property
    def split(self) -> Listed | None:
        """Text whose lines all end in a word of their own, as names and labels; None where one does not."""
        tabs = all(name.count("\t") == 1 for name in self.names)
        pairs = [[part.strip() for part in name.split("\t")] if tabs else name.rsplit(None, 1) for name in self.names]
        if not self.spaced or any(len(pair) < 2 for pair in pairs):
            return None
        return Listed(self.key, self.place, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def read_list(key: str, place: str) -> Listed:
    """Raises ConfigError, of `key`, where nothing can be read there or it names no image."""
    data = _bytes(key, place)
    suffix = Path(bare(place)).suffix.lower()
    if suffix == ".parquet":
        found = _of_parquet(key, place, data)
    elif suffix in TABLES:
        found = _of_csv(key, place, _text(key, place, data), "\t" if suffix == ".tsv" else ",")
    else:
        lines = [line.strip() for line in _text(key, place, data).replace("\r", "\n").split("\n")]
        found = Listed(key, bare(place), [line for line in lines if line and not line.startswith("#")], spaced=True)
    if not found.names:
        raise ConfigError(key, f"{bare(place)} names no image; give one name a line")
    return found


def _bytes(key: str, place: str) -> bytes:
    try:
        if "://" not in place:
            return Path(place).expanduser().read_bytes()
        folder, _, name = place.rpartition("/")
        return Storage(folder).read(name)
    except FileNotFoundError:
        here = "" if "://" in place or Path(place).is_absolute() else f" (from {Path.cwd()})"
        raise ConfigError(key, f"there is no file {bare(place)}{here}; give its path, one that all workers can read") from None
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody; ValueError: a zero byte
        raise ConfigError(key, f"{bare(place)} cannot be read ({error}); give a list of names") from None


def _text(key: str, place: str, data: bytes) -> str:
    coding = next((coding for mark, coding in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(coding, "surrogateescape" if coding != "utf-16" else "strict")
    except UnicodeDecodeError as error:
        raise ConfigError(key, f"{bare(place)} is no text ({error.reason}); write it as UTF-8") from None
    if "\0" in text:
        raise ConfigError(key, f"{bare(place)} is no text: it holds zero bytes; give a list of names, one a line")
    return text


def _of_csv(key: str, place: str, text: str, separator: str) -> Listed:
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if any(row)]
    except csv.Error as error:
        raise ConfigError(key, f"{bare(place)} is no table ({error}); mend it, or give a text with one name a line") from None
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    _check_columns(key, place, heading)
    columns = {name: heading.index(name) for name in ("name", "label") if name in heading}
    short = next((number for number, row in enumerate(rows, 1) if len(row) <= max(columns.values())), 0)
    if short:
        raise ConfigError(key, f"{bare(place)}: row {short} has fewer cells than the heading; mend it")
    found = {name: [row[column].strip() for row in rows[1:]] for name, column in columns.items()}
    return _table(key, place, found["name"], found.get("label"))


def _of_parquet(key: str, place: str, data: bytes) -> Listed:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            _check_columns(key, place, file.schema_arrow.names)
            table = file.read(columns=[name for name in ("name", "label") if name in file.schema_arrow.names])
        names, labels = (table[name].to_pylist() if name in table.column_names else None for name in ("name", "label"))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(key, f"{bare(place)} is no readable Parquet file ({str(error).splitlines()[0]})") from None
    said = None if labels is None else ["" if label is None else str(label) for label in labels]
    return _table(key, place, ["" if name is None else str(name) for name in names or ()], said)


def _table(key: str, place: str, names: list[str], labels: list[str] | None) -> Listed:
    for column, cells in (("name", names), ("label", labels or ())):
        if "" in cells:
            raise ConfigError(key, f"{bare(place)}: row {cells.index('') + 1} has no {column}; fill it, or leave the row out")
    return Listed(key, bare(place), names, labels)


def _check_columns(key: str, place: str, columns: list[str]) -> None:
    if columns.count("name") != 1:
        raise ConfigError(
            key,
            f"{bare(place)} needs one column called name (and for labels one called label); it has {', '.join(columns) or 'none'}",
        )
