"""Folders that are whole or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError, existing


def check(out: Path) -> None:
    """Refuse a folder that cannot be written, or that holds something already."""
    place = existing(out)
    if place == out and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} exists already; name a new folder")
    if place == out and out.resolve() == Path.cwd():
        raise UserError(f"--out: {out} is the folder that this runs in, which cannot be replaced; name a new folder")
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"--out: cannot write to {place}; name another folder")


@contextmanager
def draft(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes it when the block ends well, and goes when it does not."""
    check(out)
    place = out.absolute().with_name(f".{out.name}.{os.getpid()}.draft")
    place.mkdir(parents=True)
    try:
        yield place
        place.replace(out)
    finally:
        shutil.rmtree(place, ignore_errors=True)
