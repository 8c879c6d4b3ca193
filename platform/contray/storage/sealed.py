"""Small JSON files that say what was written, or are refused: each carries a digest of its own content.

A disk that lied, a half-done upload or an editor leaves a file that may still be valid JSON. Nothing of it is believed then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import UserError
from .folder import Storage

SEAL = "digest"
Kind = type | tuple[type, ...]
Kinds = Mapping[str, Kind] | Kind  # of each key, or of all values whatever their keys
NUMBER = (float, int)


class Damaged(UserError):
    """A file does not hold what was written there."""


def write(storage: Storage, name: str, facts: Mapping[str, Any]) -> None:
    """Write `facts`, which JSON can hold, with their digest."""
    storage.write(name, _dumped(facts))


def read(storage: Storage, name: str, kinds: Kinds, needed: Collection[str] = ()) -> dict[str, Any] | None:
    """What `write` wrote; None where there is no such file. Raises Damaged, and OSError where it cannot be read."""
    try:
        content = storage.read(name)
    except FileNotFoundError:
        return None
    return unseal(content, f"{storage.address}/{name}", kinds, needed)


def unseal(content: bytes, where: str, kinds: Kinds, needed: Collection[str] = ()) -> dict[str, Any]:
    """The facts in `content`, each of its kind, the `needed` ones among them.

    Without a digest, as earlier versions wrote, nothing may stand there that `kinds` does not know.
    """
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        raise Damaged(f"{where} is damaged (no JSON)") from None
    if not isinstance(facts, dict):
        raise Damaged(f"{where} is damaged ({type(facts).__name__} in place of an object)")
    sealed = SEAL in facts
    seal = facts.pop(SEAL, None)
    if not facts and not sealed:
        raise Damaged(f"{where} is damaged (it says nothing)")
    if sealed and seal != _digest(facts):
        raise Damaged(f"{where} is damaged (its digest does not fit)")
    for key, value in facts.items():
        kind = kinds.get(key) if isinstance(kinds, Mapping) else kinds
        if not sealed if kind is None else type(value) not in (kind if isinstance(kind, tuple) else (kind,)):  # True is an int
            raise Damaged(f"{where} is damaged ({key}: {str(value)[:40]!r})")
    if missing := [key for key in needed if not facts.get(key)]:
        raise Damaged(f"{where} is damaged (no {', '.join(missing)})")
    return facts


def _dumped(facts: Mapping[str, Any]) -> bytes:
    if SEAL in facts:
        raise ValueError(f"{SEAL} is the name of the seal; what is kept under it would never be read again")
    return json.dumps({**facts, SEAL: _digest(facts)}).encode()


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16]
