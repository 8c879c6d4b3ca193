"""Remembers, in a small file, the address at which `contray ui` last showed a store that is no server.

It lies beside a SQLite file (mlflow.db: mlflow.db.ui), for other databases in the folder for temporary files.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

UI_PORT = 5000
SQLITE = "sqlite:///"


def remember(uri: str, address: str) -> None:
    """Keep the address for the links that are printed from now on; where nothing can be kept, they name the usual port."""
    with suppress(OSError):
        _file(uri).write_text(f"{address}\n")


def address_of(uri: str) -> str:
    """The address used last for the store, http://127.0.0.1:5000 where there is none."""
    with suppress(OSError, ValueError):
        found = _file(uri).read_text(encoding="ascii").strip()
        if re.fullmatch(r"http://[\w.:\[\]-]+:\d{1,5}", found):
            return found
    return f"http://127.0.0.1:{UI_PORT}"


def port_of(uri: str) -> int:
    """The port of `address_of`."""
    return urlsplit(address_of(uri)).port or UI_PORT


def is_up(uri: str) -> bool:
    """Whether something answers at `address_of`."""
    place = urlsplit(address_of(uri))
    try:
        socket.create_connection((place.hostname or "", place.port or UI_PORT), timeout=0.5).close()
    except OSError:
        return False
    return True


def _file(uri: str) -> Path:
    if uri.startswith(SQLITE):
        return Path(f"{uri.removeprefix(SQLITE)}.ui")
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"contray-{os.getuid()}-{name}.ui"
