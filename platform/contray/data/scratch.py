"""The folder on this machine's disk for copies and indexes: data.scratch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError


def scratch_of(text: str) -> Path:
    """Where data.scratch lies; nothing is made yet."""
    return Path(text).expanduser() if text else Path(tempfile.gettempdir()) / f"contray-{os.getuid()}"


def make(folder: Path) -> None:
    """Raises UserError where it cannot be written, or is another user's: whoever owns it could give us what images he likes."""
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise UserError(f"data.scratch: {folder} belongs to another user; name a folder of your own")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What fails in it is the folder's fault. Raises UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"data.scratch: {folder} cannot be written ({error}); name another folder") from None
