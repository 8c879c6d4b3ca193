"""Addresses without their logins. What a config holds, prints, digests and saves is the bare address; the login stays in this process.

`bare` takes an address as the user gave it, remembers its login by scheme and host, and gives what may be shown. `full` gives a bare address
its login back where a connection is made, and nowhere else. Workers are handed `remembered()`, over the wire, never in a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlencode

ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.-]*)://(?P<host>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?", re.DOTALL
)
# What may stand in an address that is kept; any other parameter may be a key under a name that nobody foresaw.
HARMLESS = {"region", "scheme", "endpoint_override", "sslmode", "charset"}
LEAST = 4  # characters of a secret that is looked for in texts: shorter ones would blot out words

_logins: dict[str, tuple[str, str]] = {}  # scheme://host -> (user:password, the whole query)


def bare(address: str) -> str:
    """The address as it may be shown and kept. What it carries of a login is remembered; paths and other texts stay as they are."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        return address
    login, _, host = found["host"].rpartition("@")
    query = found["query"] or ""
    kept = [(key, value) for key, value in parse_qsl(query, keep_blank_values=True) if key.lower() in HARMLESS]
    if not login and not query:
        return address
    place = f"{found['scheme']}://{host}"
    before = _logins.get(place, ("", ""))
    secret = len(kept) < len(parse_qsl(query, keep_blank_values=True))
    _logins[place] = login or before[0], query if secret or not before[1] else before[1]
    return f"{place}{found['path']}{'?' + urlencode(kept, safe=':/') if kept else ''}"


def full(address: str) -> str:
    """The address with the login that is known of its host, for making a connection."""
    found = ADDRESS.fullmatch(address)
    login, query = _logins.get(f"{found['scheme']}://{found['host']}", ("", "")) if found else ("", "")
    if found is None or not (login or query):
        return address
    query = query or found["query"] or ""
    return f"{found['scheme']}://{login + '@' if login else ''}{found['host']}{found['path']}{'?' + query if query else ''}"


def remembered() -> dict[str, tuple[str, str]]:
    """All logins, for the processes of a run."""
    return dict(_logins)


def remember(logins: Mapping[str, tuple[str, str]]) -> None:
    """What another process of the run has `remembered`."""
    _logins.update(logins)


def scrubbed(text: str) -> str:
    """A text of somebody else's (a library's error, a mistyped command) without any login that stands in it."""
    text = re.sub(r"(\b[A-Za-z][\w+.-]*://)[^/\s@'\"]+@", r"\1", text)
    for login, query in _logins.values():
        values = [login.partition(":")[2] or login, *(value for key, value in parse_qsl(query) if key.lower() not in HARMLESS)]
        for secret in {form for value in values for form in (value, unquote(value)) if len(form) >= LEAST}:
            text = text.replace(secret, "***")
    return text
