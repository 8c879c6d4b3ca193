"""Names that become folders: of runs, sweeps and groups of seeds. One name, one folder, on every file system and object store."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

from ..errors import ConfigError

# Begins with no dot (hidden, `..`), holds nothing that a path, an address, a shell pattern or MLflow reads as something else
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,99}")
# Names that shares of Windows take for a device, or for the same name without its last dot
DEVICE = re.compile(r"((con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?|.*\.)", re.IGNORECASE)
LONGEST = 150  # bytes of an encoded name that stays as it is; file systems take 255


def check_name(key: str, name: str) -> None:
    """Raise ConfigError for a name that may leave the folder that it is given in, or meet another name there."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            key,
            f"got {name!r}, must be 1 to 100 of the letters A-Z a-z, digits and _ . = + -, and begin with a letter, a digit or _",
        )
    if DEVICE.fullmatch(name):
        raise ConfigError(
            key, f"got {name!r}, must not end with a dot, nor be the name of a device on some file systems (con, nul, aux, ...)"
        )


def check_case(key: str, name: str, others: list[str]) -> None:
    """Raise ConfigError where a folder's name differs in case alone: not every file system tells them apart."""
    twin = next((other for other in others if other != name and other.casefold() == name.casefold()), None)
    if twin:
        raise ConfigError(
            key, f"got {name}, and {twin} is there already, which is the same name on file systems that ignore case"
        )


def slug(text: str) -> str:
    """A part of a derived name, from text that may hold anything; what is changed ends in a digest, so that no two texts meet."""
    kept = re.sub(r"[^A-Za-z0-9_.=+-]", "_", text)[:60]
    return (
        kept
        if kept == text and NAME.fullmatch(text) and not DEVICE.fullmatch(text)
        else f"_{kept}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
    )


def folder_of(name: str) -> str:
    """A folder's name for a free text (an experiment): reversible, or ending in a digest where that would be too long."""
    encoded = re.sub(r"^\.", "%2E", quote(name, safe=" "))
    if len(encoded) <= LONGEST:
        return encoded
    return f"{encoded[:80].rpartition('%')[0] or encoded[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
