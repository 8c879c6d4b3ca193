"""The index of a large folder: what lies in it, and what was made of that, found once and kept on this machine.

All processes map the same files, so that a million names take memory once. A folder's time tells whether its list still stands: where images came or
went, their folders alone are read again. What is kept bears its digest; an index that is damaged or of another version is made anew.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock

from .digests import digest
from .layout import Folder, Found, scan
from .names import Tree
from .places import File, Remote
from .scratch import make, scratch_of, writing

VERSION = 3  # raised whenever the same folder gives another index
RECENT = 3600  # seconds in which the list of an object store is not asked for again: the workers of a run take that of its start
FORGET = 90 * 86_400  # seconds after which an index is removed by the next one that is made; making it again takes seconds
LARGE = 20_000  # images from which a folder has an index; of fewer the list is made as fast as it is read

_FACTS, _NAMES = "facts.json", "names.arrow"
Made = Mapping[str, Any]  # arrays, and what JSON holds


class Index:
    """What lies in a folder, and what was made of it."""

    def __init__(self, found: Found, place: Path | None) -> None:
        """place: where it is kept; None: nowhere."""
        self.found, self.place = found, place

    def remembered(self, name: str, version: int, made: Callable[[], Made]) -> Made:
        """What `made` gives for this folder: worked out once, then mapped. Its arrays are not to be written to."""
        if self.place is None:
            return made()
        part = self.place / f"{name}-{version}"
        if (known := _load(part)) is None:
            shutil.rmtree(part, ignore_errors=True)
            _save(part, made())
            known = _load(part)
        return known or made()


def index_of(root: File, scratch: str, also: frozenset[str] = frozenset()) -> Index:
    """The images below `root`. An object store tells no times: a list of it stands for RECENT seconds. also: see `scan`.

    Raises DataError where a folder cannot be read, UserError where the index of a large one cannot be kept."""
    base = scratch_of(scratch) / "index"
    place = base / digest(os.fsencode(root.resolve() if isinstance(root, Path) else str(root)), VERSION, *sorted(also))
    known = _known(place)
    found = _scanned(root, place, known, also)
    if found is known:
        return Index(found, place)
    if len(found.images) < LARGE:
        return Index(found, None)
    make(base.parent)
    make(base)
    with writing(base), FileLock(f"{place}.lock"):
        known = _known(place)  # another process may have made it meanwhile
        found = _scanned(root, place, known, also) if known else found
        if found is not known:
            shutil.rmtree(place, ignore_errors=True)  # whoever has mapped it keeps it
            _forget(base)
            _save(place, _packed(found))
            if kept := _known(place):
                found = kept
                pa.default_memory_pool().release_unused()  # what the list took before it was mapped
    return Index(found, place)


def _forget(base: Path) -> None:
    for facts in base.glob(f"*/{_FACTS}"):
        with suppress(OSError):
            if time.time() - facts.stat().st_mtime > FORGET:
                shutil.rmtree(facts.parent)


def _scanned(root: File, place: Path, known: Found | None, also: frozenset[str]) -> Found:
    if known and isinstance(root, Remote):
        return known if time.time() - (place / _FACTS).stat().st_mtime < RECENT else scan(root, also=also)
    return scan(root, known=known, also=also)


def _packed(found: Found) -> Made:
    folders = {name: vars(here) for name, here in found.folders.items()}
    tree = found.images
    made = {"names": tree.array, "folder_of": tree.folder_of, "in": tree.folders, "folders": folders}
    made |= {"tables": found.tables, "shards": found.shards, "skipped": found.skipped}
    return made if tree.sizes is None else {**made, "sizes": tree.sizes}


def _known(place: Path) -> Found | None:
    kept = _load(place)
    if kept is None or not kept.keys() >= {"names", "in", "folder_of", "folders", "tables", "shards", "skipped"}:
        return None
    folders = {name: Folder(**here | {"skipped": Counter(here["skipped"])}) for name, here in kept["folders"].items()}
    tree = Tree(kept["names"], kept["in"], kept["folder_of"], kept.get("sizes"))
    return Found(tree, kept["tables"], kept["shards"], folders, Counter(kept["skipped"]))


# ---------------------------------------------------------------- on the disk


def _save(place: Path, made: Made) -> None:
    """Whole or not at all; what another process wrote meanwhile stays."""
    draft = place.with_name(f".{place.name}.{secrets.token_hex(8)}.draft")
    with writing(place.parent):
        try:
            draft.mkdir(mode=0o700)
            plain: dict[str, Any] = {}
            for name, value in made.items():
                if isinstance(value, np.ndarray):
                    np.save(draft / f"{name}.npy", value)
                elif isinstance(value, pa.Array):
                    with pa.OSFile(os.fsencode(draft / f"{name}.arrow"), "wb") as file:
                        batch = pa.record_batch([value], names=[name])
                        with pa.ipc.new_file(file, batch.schema) as writer:
                            writer.write_batch(batch)
                else:
                    plain[name] = value
            sums = {file.name: _sum(file) for file in draft.iterdir()}
            text = json.dumps(plain)
            (draft / _FACTS).write_text(json.dumps({"made": text, "sum": digest(text, sums), "files": sums}))
            with suppress(FileExistsError):
                os.rename(draft, place)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # it stands already
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _load(place: Path) -> dict[str, Any] | None:
    """None where nothing whole is there."""
    try:
        facts = json.loads((place / _FACTS).read_text())
        files = facts["files"]
        if facts["sum"] != digest(facts["made"], files) or any(_sum(place / name) != found for name, found in files.items()):
            return None
        made: dict[str, Any] = json.loads(facts["made"])
        for name in files:
            stem, kind = os.path.splitext(name)
            if kind == ".npy":
                made[stem] = np.load(place / name, mmap_mode="r")
            else:
                made[stem] = pa.ipc.open_file(pa.memory_map(str(place / name))).get_batch(0).column(0)
        return made
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        return None


def _sum(file: Path) -> str:
    found = hashlib.blake2b(digest_size=12)
    with open(file, "rb") as opened:
        while piece := opened.read(2**22):
            found.update(piece)
    return found.hexdigest()
