"""Short hashes of what a data set holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from .names import Names


def lots_of(keys: Iterable[str]) -> np.ndarray:
    """(N,) float64 in [0, 1), the same on every machine; surrogates stand for bytes of a name that are no text."""
    hashes = (hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=7).digest() for key in keys)
    return np.fromiter((int.from_bytes(each, "big") / 2**56 for each in hashes), np.float64)


def digest(*parts: object) -> str:
    """A short hash of arrays (by their bytes), of names as of the list of them, and of anything whose repr says it all."""
    found = hashlib.blake2b(digest_size=12)
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(part.tobytes())
        elif isinstance(part, Names):  # piece by piece: the list of a million names is not made
            found.update(b"[")
            for i, name in enumerate(part):
                found.update(f"{', ' if i else ''}{name!r}".encode())
            found.update(b"]")
        else:
            found.update(repr(part).encode())
        found.update(b"\0")
    return found.hexdigest()
