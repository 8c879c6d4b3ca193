"""WebDataset: tar archives whose members make samples, by their name up to the first dot behind its last slash.

0001.jpg, 0001.cls and 0001.json are one sample. The image is the member with an image's suffix, its class stands in .cls, a number or a text, or in the .json
as `label` or `class`. data.image_column names another extension (jpg, or left.jpg where a sample has several), data.label_column another extension or
another key of the .json.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..config.sections import DataConfig
from ..errors import ConfigError, DataError, shown
from .labels import KEY, Labels, join
from .layout import SUFFIXES, listing, plain, suffix
from .parquet import divide
from .places import File
from .ranges import Index, Look, Ranges
from .splits import EncodedSplit
from .tar import PACKED, Member, Pread, members

_LABEL, _JSON = 2**16, 2**24  # bytes that such a member may have


def open_tars(root: File, names: Sequence[str], config: DataConfig) -> tuple[EncodedSplit, EncodedSplit | None, list[str]]:
    """(train, test or None, notes). names: relative to the folder `root`; that of a single file is "". Raises ConfigError or DataError."""
    packed = [name or str(root) for name in names if (name or str(root)).lower().endswith(PACKED)]
    if packed:
        raise DataError(
            f"data.source: {shown(packed[0])} is compressed, so that no image of it can be read by itself; unpack it to .tar (gunzip, zstd -d, xz -d)"
        )
    split_of, notes = ({"": "train"}, []) if "" in names else divide(names, str(root), "tar")
    look = partial(_look, image=config.image_column, label=config.label_column)
    parts = parts_of(root, split_of, config, look)
    for part in parts.values():
        _check(part, config, notes)
    return joined(parts, config, notes, "no sample has a .cls, or a label in its .json", texts=False)


def parts_of(root: File, split_of: Mapping[str, str], config: DataConfig, look: Look) -> dict[str, Ranges]:
    """The files of train and, where there are any, of test."""
    return {
        split: Ranges(root, [name for name, own in split_of.items() if own == split], config, look)
        for split in ("train", "test")
        if split in split_of.values()
    }


def joined(
    parts: Mapping[str, Ranges], config: DataConfig, notes: list[str], absent: str, texts: bool
) -> tuple[EncodedSplit, EncodedSplit | None, list[str]]:
    """The splits, whose labels are numbers of the classes of training. absent: what there is none of; texts: a text of digits is no number."""
    train, test = parts["train"], parts.get("test")
    numbers = all(_is_number(value, texts) for part in parts.values() for index in part.indices for value in index.values)
    codes = {part: _codes(part, numbers) for part in parts.values()} if config.label_column else {}
    fit, tested = (_labels(part, codes) for part in (train, test))
    found = join(fit, tested, test is not None)
    if fit is None and config.label_column:
        if config.label_column != DataConfig.label_column:
            raise ConfigError(KEY, f"{shown(train.files[0])} has no labels in {config.label_column!r}")
        notes.append(f"no labels: {absent} (choose with --{KEY})")
    splits: list[EncodedSplit | None] = []
    for part, known in ((train, found.train), (test, found.test)):
        if part is None:
            splits.append(None)
            continue
        labels = None if known is None else known[codes[part][1]]
        classes = found.classes if labels is not None else []
        splits.append(EncodedSplit(part.encoded(), config.memory_gb, labels, classes, shorter_side=config.shorter_side))
    assert splits[0] is not None
    return splits[0], splits[1], notes + found.notes


def _codes(part: Ranges, numbers: bool) -> tuple[list[Any], np.ndarray]:
    """(distinct labels, (N,) which of them each sample has; the last of them is None where some have none)."""
    values: dict[Any, int] = {}
    found = [np.zeros(0, np.int64)]
    for index in part.indices:
        own = [int(value) if numbers else plain(str(value)) for value in index.values] + [None]
        places = np.array([values.setdefault(value, len(values)) for value in own if value is not None] + [-1], np.int64)
        found.append(places[index.labels])
    codes = np.concatenate(found)
    missing = codes < 0
    if missing.any():
        codes[missing] = len(values)
        return [*values, None], codes
    return list(values), codes


def _labels(part: Ranges | None, codes: Mapping[Ranges, tuple[list[Any], np.ndarray]]) -> Labels | None:
    """Each label once, for `join`; None where no sample has one. Raises ConfigError where some have none."""
    if part is None or part not in codes or codes[part][0] == [None]:
        return None
    values, own = codes[part]
    if values[-1] is None:
        without = int((own == len(values) - 1).sum())
        raise ConfigError(
            KEY,
            f"{shown(part.files[0])} and its like have {without:,} samples without a label (of {len(own):,}); leave them out, or give --{KEY} ''",
        )
    names = dict.fromkeys(plain(name) for index in part.indices for name in index.facts.get("classes", ()))
    return Labels(values, list(names), where=f"{KEY} of {shown(part.files[0])}")


def _is_number(value: Any, texts: bool) -> bool:
    """Also a text that is one, and no other way to write it: of 01 and 1 nobody knows whether they are one class."""
    return isinstance(value, int) or (not texts and re.fullmatch(r"0|-?[1-9][0-9]{0,17}", value) is not None)


def _check(part: Ranges, config: DataConfig, notes: list[str]) -> None:
    """Raises ConfigError where there is no image; notes what was left out."""
    without = sum(index.facts["without"] for index in part.indices)
    if not part.starts[-1]:
        kinds = sorted(set[str]().union(*(index.facts["kinds"] for index in part.indices)))
        if not kinds:
            raise DataError(f"data.source: {shown(part.files[0])} is empty")
        what = "images" if config.image_column == DataConfig.image_column else f"members .{config.image_column}"
        raise ConfigError(
            "data.image_column", f"{shown(part.files[0])} has no {what}; it has .{listing(kinds, 8).replace(', ', ', .')}"
        )
    if without:
        notes.append(f"{without:,} samples of {shown(part.files[0])} and its like have no image and are left out")


# ---------------------------------------------------------------- one archive


def _look(fd: int, size: int, file: File, *, image: str, label: str) -> Index:
    def read(count: int, at: int) -> bytes:
        return os.pread(fd, max(0, min(count, size - at)), at)

    offsets, sizes, ends, labels = array("q"), array("q"), array("q"), array("i")
    names, values, kinds, without = bytearray(), dict[Any, int](), set[str](), 0
    for sample in _samples(members(read, size, file), file):
        found = _image(sample, image, file)
        if found is None:
            without += 1
            kinds.update(list(sample)[:8] if len(kinds) < 64 else ())
            continue
        offsets.append(found.offset)
        sizes.append(found.size)
        names += found.name
        ends.append(len(names))
        value = _label(sample, label, read, file) if label else None
        labels.append(-1 if value is None else values.setdefault(value, len(values)))
    at, lengths, ended = (np.array(each, np.int64) for each in (offsets, sizes, ends))
    facts = {"without": without, "kinds": sorted(kinds)}
    return Index(size, at, lengths, ended, np.frombuffer(bytes(names), np.uint8), np.array(labels, np.int32), list(values), facts)


def _samples(found: Iterator[Member], file: File) -> Iterator[dict[str, Member]]:
    """The members of each sample by their extension, in small letters; hidden files and those without an extension are passed over."""
    seen: set[int] = set()
    key, sample = b"", dict[str, Member]()
    for member in found:
        folder, _, base = member.name.rpartition(b"/")
        stem, dot, kind = base.partition(b".")
        if not stem or not dot or b"__MACOSX" in folder.split(b"/"):
            continue
        own = folder + b"/" + stem
        if own != key:
            if sample:
                yield sample
            if hash(own) in seen:
                raise DataError(
                    f"data.source: {shown(file)}: the members of sample {_text(own)} do not lie side by side, or it is there twice; pack it anew, sorted "
                    "(tar --sort=name)"
                )
            seen.add(hash(own))
            key, sample = own, {}
        extension = _text(kind).lower()
        if extension in sample:
            raise DataError(f"data.source: {shown(file)} has {_text(member.name)} twice; pack it anew")
        sample[extension] = member
    if sample:
        yield sample


def _image(sample: Mapping[str, Member], column: str, file: File) -> Member | None:
    if column != DataConfig.image_column:
        return next((sample[kind] for kind in column.lower().lstrip(".").split(";") if kind in sample), None)
    found = [kind for kind in sample if suffix(f"x.{kind}") in SUFFIXES]
    if len(found) > 1:
        raise ConfigError(
            "data.image_column",
            f"{shown(file)}: {_text(sample[found[0]].name)} is one of several images of a sample ({listing(found)}), whose name ends at the first dot of the "
            "file's; name one of them, or, where each is a sample of its own, pack them under names without that dot",
        )
    return sample[found[0]] if found else None


def _label(sample: Mapping[str, Member], column: str, read: Pread, file: File) -> str | int | None:
    usual = column == DataConfig.label_column
    kind = "cls" if usual else column.lower().lstrip(".")
    if kind in sample and kind != "json":
        return _content(sample[kind], _LABEL, read, file).strip() or None
    if "json" not in sample:
        return None
    text = _content(sample["json"], _JSON, read, file)
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(
            f"data.source: {shown(file)}: {_text(sample['json'].name)} is no JSON; mend it, or give --{KEY} ''"
        ) from None
    keys = ("label", "class") if usual or kind == "json" else (column,)
    value = next((held[key] for key in keys if key in held), None) if isinstance(held, dict) else held if kind == "json" else None
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise ConfigError(
            KEY,
            f"{shown(file)}: {_text(sample['json'].name)} holds {value!r}; labels are integers or strings: name another, or give --{KEY} ''",
        )
    return value


def _content(member: Member, most: int, read: Pread, file: File) -> str:
    if member.size > most:
        raise ConfigError(
            KEY,
            f"{shown(file)}: {_text(member.name)} of {member.size:,} bytes is no label; name another extension, or give --{KEY} ''",
        )
    try:
        return read(member.size, member.offset).decode()
    except UnicodeDecodeError:
        raise ConfigError(
            KEY, f"{shown(file)}: {_text(member.name)} is no text; name another extension, or give --{KEY} ''"
        ) from None


def _text(name: bytes) -> str:
    return shown(os.fsdecode(name))
