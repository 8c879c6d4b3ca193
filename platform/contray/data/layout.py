"""What lies in a place: its images, its Parquet files and what is left out of both; and of which split a name speaks.

One rule for training, evaluation and embedding, on a disk as on an object store. An image is a file whose suffix is in SUFFIXES, in any case; whether
it can be decoded shows when it is read, and one that cannot is counted as broken and named. Hidden are names that begin with a dot and the
folders that systems leave behind. Whatever else is left out is counted by its kind.
"""

from __future__ import annotations

import os
import re
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..errors import DataError, shown
from ..storage.reached import unread
from .names import Grown, Tree
from .places import Remote
from .progress import progress

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"}
    | {".avif", ".heic", ".heif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"}
)
TABLE = ".parquet"
# of WebDataset, packed or not, and of Hugging Face
SHARDS = (
    ".tar",
    ".arrow",
    ".tgz",
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.zst",
)
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
_AT_ONCE = 8  # folders that are read at a time: a network disk answers many questions at once
_FOLDERS = 64  # whose names are held at a time
_FRESH = 3_000_000_000  # ns within which a file system may not tell two changes apart


@dataclass
class Folder:
    """What one folder holds besides its images: names of subfolders, of links to folders, of Parquet files, of shards; skipped: the rest, by its kind.

    time: when the folder was changed last, ns, when its entry was, which no program that unpacks or copies can set, and its number; empty where the first
    was so short a time before it was read that a later change may bear the same.
    """

    time: list[int] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass
class Found:
    """Names of the images, Parquet files, shards and folders, relative to the place and sorted; skipped: what else is there, by its kind.

    shards: archives and Arrow files, which are skipped where images or tables with images are: there they are what these came in.
    """

    images: Tree = field(default_factory=lambda: Tree.of([]))
    tables: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    folders: dict[str, Folder] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def note(self) -> str:
        """'skipped: 3 .txt, 1 hidden folder', or nothing where nothing was."""
        skipped = self.skipped + Counter(map(suffix, self.shards if self.images or self.tables else ()))
        kinds = [f"{count:,} {kind}" for kind, count in skipped.most_common()]
        more = [f"{sum(count for _, count in skipped.most_common()[_KINDS:]):,} others"] if len(kinds) > _KINDS else []
        return f"skipped: {', '.join(kinds[:_KINDS] + more)}" if kinds else ""


def suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def scan(
    root: str | os.PathLike[str] | Remote,
    key: str = "data.source",
    known: Found | None = None,
    also: frozenset[str] = frozenset(),
) -> Found:
    """The files below a folder, of a path or on an object store. Links to files count as files; a folder is read once, by whichever links it is reached.

    Folders that are no links come first, so that a link never takes the place of what it leads to. Pipes, sockets and devices are never
    opened. known: what was found before; folders whose times are the same are not read again, and where all are it is given back itself.
    also: suffixes of images besides SUFFIXES.
    Raises DataError, with `key` before it, where a folder cannot be read: what lies in it would be missing without a word.
    """
    before = known.folders if known else {}
    found, grown, links, same, again = Found(), Grown(), [], [], 0
    seen = set[object]() if isinstance(root, Remote) else _above(os.path.abspath(root))

    ask = _asked(root, key) if isinstance(root, Remote) else None

    def look(name: str) -> tuple[object, Folder, dict[str, int] | None]:
        if isinstance(root, Remote):
            assert ask is not None
            return _listed(name, *ask(name), also)
        return _read(os.path.join(os.path.abspath(root), name), before.get(name), key, also)

    level = [""]
    with ThreadPoolExecutor(_AT_ONCE) as pool, progress("listing folders") as advance:
        while level or links:
            names, level = (level, []) if level else ([links.pop(0)], [])
            for some in (names[start : start + _FOLDERS] for start in range(0, len(names), _FOLDERS)):
                for name, (identity, here, images) in zip(some, pool.map(look, some), strict=True):
                    if identity in seen:
                        again += 1
                        continue
                    seen.add(identity)
                    found.folders[name] = here
                    level += [f"{name}/{each}" if name else each for each in here.below]
                    links = sorted([*links, *(f"{name}/{each}" if name else each for each in here.links)])
                    if images is None:
                        same.append(name)
                    else:
                        grown.add(name, list(images), list(images.values()) if isinstance(root, Remote) else ())
                        advance(len(images))
    if known and len(same) == len(before) == len(found.folders):
        return known
    if known:
        grown.keep(known.images, same)
    found.images = grown.tree()
    return _summed(found, Counter({"link(s) to folders that are read already or lie above": again} if again else {}))


def _above(place: str) -> set[object]:
    """The folders that the place lies in: a link to one of them leads back to it, and to all beside it."""
    above = [os.path.realpath(place)]
    while (parent := os.path.dirname(above[-1])) != above[-1]:
        above.append(parent)
    return {_identity(folder, os.stat(folder)) for folder in above[1:]}


def _asked(root: Remote, key: str) -> Callable[[str], tuple[set[str], dict[str, int]]]:
    """What tells, of a folder of an object store by its name below the root, its subfolders and the sizes of its files. It raises DataError.

    Google's store tells by itself no folder that was not made as one, so that all of it is listed at once.
    """
    from pyarrow import fs

    def infos(place: Remote, deep: bool) -> list[fs.FileInfo]:
        try:
            return place.storage.system.get_file_info(fs.FileSelector(place.place, recursive=deep))
        except OSError as error:
            raise DataError(f"{key}: {place} cannot be listed: {unread(place.storage, error)}") from None

    def one(name: str) -> tuple[set[str], dict[str, int]]:
        found = infos(root / name if name else root, deep=False)
        folders = {info.base_name for info in found if info.type == fs.FileType.Directory}
        return folders, {info.base_name: info.size for info in found if info.type == fs.FileType.File}

    if root.storage.system.type_name != "gcs":
        return one
    held = defaultdict[str, tuple[set[str], dict[str, int]]](lambda: (set(), {}))
    above = len(root.place.rstrip("/")) + 1
    for info in infos(root, deep=True):
        if info.type == fs.FileType.File:
            folder, _, file = info.path[above:].rpartition("/")
            held[folder][1][file] = info.size
            while folder:
                folder, _, name = folder.rpartition("/")
                if name in held[folder][0]:
                    break
                held[folder][0].add(name)
    return held.__getitem__


def _listed(name: str, folders: set[str], files: dict[str, int], also: frozenset[str]) -> tuple[object, Folder, dict[str, int]]:
    """`_read` of a folder on an object store, whose folders have no times, with the sizes of the images."""
    here = Folder(below=sorted(each for each in folders if not _hidden(each)))
    if hidden := sum(map(_hidden, folders)):
        here.skipped["hidden folder(s)"] += hidden
    return name, here, {file: files[file] for file in _images(list(files), here, also)}


def _read(place: str, before: Folder | None, key: str, also: frozenset[str]) -> tuple[object, Folder, dict[str, int] | None]:
    """(what folder it is, what it holds, its images); what was there `before` and no images where its time is the same. Raises DataError."""
    try:
        facts = os.stat(place)
        identity = _identity(place, facts)
        at = [facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
        if before and before.time == at:
            return identity, before, None
        here = Folder(at if facts.st_mtime_ns < time.time_ns() - _FRESH else [])
        with os.scandir(place) as entries:
            listed = list(entries)
    except OSError as error:
        raise DataError(f"{key}: {place.rstrip('/')} cannot be read ({error.strerror}); mend that, or move it away") from error
    files = []
    for entry in listed:
        try:
            folder, file, link = entry.is_dir(), entry.is_file(), entry.is_symlink()
        except OSError:  # links in a circle
            folder, file, link = False, False, True
        if folder and not _hidden(entry.name):
            (here.links if link else here.below).append(entry.name)
        elif folder:
            here.skipped["hidden folder(s)"] += 1
        elif file:
            files.append(entry.name)
        else:
            here.skipped[
                "hidden file(s)" if _hidden(entry.name) else "link(s) to nothing" if link else "pipe(s), socket(s) or device(s)"
            ] += 1
    return identity, here, dict.fromkeys(_images(files, here, also), 0)


def _identity(folder: str, facts: os.stat_result) -> tuple[object, ...]:
    # some network file systems number nothing
    return (facts.st_dev, facts.st_ino) if facts.st_ino else (os.path.realpath(folder),)


def _images(files: list[str], here: Folder, also: frozenset[str]) -> list[str]:
    """The images among the files of a folder; what the others are is noted in it."""
    images = []
    for file in files:
        kind = suffix(file)
        if _hidden(file):
            here.skipped["hidden file(s)"] += 1
        elif kind in SUFFIXES or kind in also:
            images.append(file)
        elif kind == TABLE:
            here.tables.append(file)
        elif file.lower().endswith(SHARDS):
            here.shards.append(file)
        else:
            here.skipped[shown(kind) if 1 < len(kind) <= 10 else "file(s) of no known suffix"] += 1
    return images


def _summed(found: Found, skipped: Counter[str]) -> Found:
    """The whole of what its folders say."""
    found.folders = dict(sorted(found.folders.items()))
    found.tables, found.shards = (
        sorted(f"{name}/{file}" if name else file for name, here in found.folders.items() for file in getattr(here, kind))
        for kind in ("tables", "shards")
    )
    found.skipped = sum((here.skipped for here in found.folders.values()), skipped)
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
