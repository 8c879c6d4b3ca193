"""What lies in a place: its images, its Parquet files and what is left out of both; and of which split a name speaks.

One rule for training, evaluation and embedding, on a disk as on an object store. An image is a file whose suffix is in SUFFIXES, in any case; whether
it can be decoded shows when it is read, and one that cannot is counted as broken and named. Hidden are names that begin with a dot and the
folders that systems leave behind. Whatever else is left out is counted by its kind.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..errors import DataError, shown

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"}
    | {".avif", ".heic", ".heif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"}
)
TABLE = ".parquet"
_LEFT_BEHIND = {
    "__macosx",
    "network trash folder",
    "temporary items",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "found.000",
} | {
    *(
        "@eadir",
        "#recycle",
        "@recycle",
        "@recently-snapshot",
        "#snapshot",
        "~snapshot",
        "lost+found",
        "lost.dir",
        "thumbs.db",
        "desktop.ini",
    )
}  # macOS, Windows, network disks
_KINDS = 5  # suffixes that a note names


@dataclass
class Found:
    """Names of the images, Parquet files and folders, relative to the place and sorted; skipped: what else is there, by its kind."""

    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def note(self) -> str:
        """'skipped: 3 .txt, 1 hidden folder', or nothing where nothing was."""
        kinds = [f"{count:,} {kind}" for kind, count in self.skipped.most_common()]
        more = [f"{sum(count for _, count in self.skipped.most_common()[_KINDS:]):,} others"] if len(kinds) > _KINDS else []
        return f"skipped: {', '.join(kinds[:_KINDS] + more)}" if kinds else ""


def suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def sort_out(names: Iterable[str], also: frozenset[str] = frozenset()) -> Found:
    """The files of a listing, by their relative names. also: suffixes of images besides SUFFIXES."""
    found, folders = Found(), set()
    for name in names:
        parts = name.split("/")
        at = next((i for i, part in enumerate(parts) if _hidden(part)), -1)
        if at == len(parts) - 1:
            found.skipped["hidden file(s)"] += 1
        elif at >= 0:
            folders.add("/".join(parts[: at + 1]))
        else:
            _add(found, name, also)
    if folders:
        found.skipped["hidden folder(s)"] = len(folders)
    return _sorted(found)


def scan(root: str | os.PathLike[str], key: str = "data.source", also: frozenset[str] = frozenset()) -> Found:
    """The files below a folder. Links to files count as files; a folder is read once, by whichever links it is reached.

    Folders that are no links come first, so that a link never takes the place of what it leads to. Pipes, sockets and devices are never
    opened. Raises DataError, with `key` before it, where a folder cannot be read: what lies in it would be missing without a word.
    """
    place = os.path.abspath(root)
    found, folders, links = Found(), [""], []
    above = [os.path.realpath(place)]
    while (parent := os.path.dirname(above[-1])) != above[-1]:
        above.append(parent)
    seen = {_identity(folder) for folder in above[1:]}  # a link to what the place lies in leads back to it, and to all beside it
    while folders or links:
        prefix = folders.pop() if folders else links.pop(0)
        here = os.path.join(place, prefix)
        try:
            identity = _identity(here)
            if identity in seen:
                found.skipped["link(s) to folders that are read already or lie above"] += 1
                continue
            seen.add(identity)
            found.folders.append(prefix.rstrip("/"))
            with os.scandir(here) as entries:
                listed = list(entries)
        except OSError as error:
            raise DataError(f"{key}: {here} cannot be read ({error.strerror}); mend that, or move it away") from error
        aside = []
        for entry in listed:
            name = prefix + entry.name
            try:
                folder, file, link = entry.is_dir(), entry.is_file(), entry.is_symlink()
            except OSError:  # links in a circle
                folder, file, link = False, False, True
            if _hidden(entry.name):
                found.skipped["hidden folder(s)" if folder else "hidden file(s)"] += 1
            elif folder:
                (aside if link else folders).append(f"{name}/")
            elif file:
                _add(found, name, also)
            else:
                found.skipped["link(s) to nothing" if link else "pipe(s), socket(s) or device(s)"] += 1
        links = sorted([*links, *aside])
    return _sorted(found)


def _identity(folder: str) -> tuple[object, ...]:
    facts = os.stat(folder)
    # some network file systems number nothing
    return (facts.st_dev, facts.st_ino) if facts.st_ino else (os.path.realpath(folder),)


def _add(found: Found, name: str, also: frozenset[str]) -> None:
    kind = suffix(name)
    if kind in SUFFIXES or kind in also:
        found.images.append(name)
    elif kind == TABLE:
        found.tables.append(name)
    else:
        found.skipped[shown(kind) if 1 < len(kind) <= 10 else "file(s) of no known suffix"] += 1


def _sorted(found: Found) -> Found:
    found.images.sort()
    found.tables.sort()
    found.folders.sort()
    return found


# ---------------------------------------------------------------- splits

WORDS = {
    "train": ("train", "training", "trainset", "trn"),
    "test": ("test", "testing", "testset", "tst"),
    "val": ("val", "valid", "validation", "valset", "dev", "eval", "evaluation"),
}
_SPLITS = {word: split for split, words in WORDS.items() for word in words}
_TOKENS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # cifarTrain_v2 -> cifar, Train, v
_NUMBERED = re.compile(rf"(?:{_TOKENS.pattern}|[^\W\d_a-zA-Z]+)\d*")
_SHARD = re.compile(r"of|(part|partial|shard|chunk)\d*")


def splits_in(name: str) -> set[str]:
    """The splits (train, test, val) of which a name speaks: as the whole of it or as one word, in any case: Train, cifar_test, val2017."""
    return {_SPLITS[token] for word in _TOKENS.findall(name) if (token := word.lower()) in _SPLITS}


def split_named(name: str) -> str:
    """The split that a name is and says nothing else, digits apart; else ""."""
    return _SPLITS.get(re.sub(r"[\d_.\- ]+$", "", name).lower(), "")


def besides_splits(name: str) -> str:
    """What a name says besides splits, numbers and shards: of cifar10_train-00000-of-00002 it is cifar10."""
    words = [word.lower() for word in _NUMBERED.findall(name)]
    return " ".join(word for word in words if word.rstrip("0123456789") not in _SPLITS and not _SHARD.fullmatch(word))


def plain(name: str) -> str:
    """One spelling of a name: a Mac takes an accent apart, so that one class would be two that look the same."""
    return unicodedata.normalize("NFC", name)


def alike(name: str, names: Iterable[str]) -> str:
    """The other name that differs in case or spaces alone; else ""."""
    folded = "".join(name.casefold().split())
    return next((each for each in names if each != name and "".join(each.casefold().split()) == folded), "")


def alikes(names: Iterable[str]) -> list[str]:
    """A note where classes are told apart by case or spaces alone: they may be meant, and may be one."""
    first: dict[str, str] = {}
    pairs = [
        (other, name) for name in sorted(names) if (other := first.setdefault("".join(name.casefold().split()), name)) != name
    ]
    more = f" (and {len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
    return (
        [f"the classes {pairs[0][0]!r} and {pairs[0][1]!r} differ in case or spaces alone and count as two{more}"]
        if pairs
        else []
    )


def listing(names: Sequence[str], most: int = 5) -> str:
    """'a, b and 7 more', for messages."""
    head = ", ".join(shown(name) for name in names[:most])
    return head + (f" and {len(names) - most} more" if len(names) > most else "")
