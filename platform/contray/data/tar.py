"""The members of a tar archive: where each lies in the file, read header by header.

ustar, GNU's long names and PAX headers. What is no regular file is passed over, but a link that is named as an image is refused, and so is an archive
that was cut off: what is missing would be missing without a word.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import DataError, shown
from .layout import SUFFIXES, suffix

BLOCK = 512
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_HEADERS = 1 << 20  # bytes that a long name or a PAX header may have
_REGULAR = b"0\0007"
_AHEAD = 16 * BLOCK  # read with a header: a small member and the next header too
Pread = Callable[[int, int], bytes]  # (bytes, offset) -> that many, or fewer at the end


@dataclass(frozen=True)
class Member:
    name: bytes
    offset: int
    size: int


def members(read: Pread, size: int, where: object) -> Iterator[Member]:
    """The regular files of an archive of `size` bytes, in their order. Raises DataError naming `where`."""
    if not size:
        raise DataError(
            f"data.source: {shown(where)} is empty (0 bytes), so its download or its packing failed; fetch it again, or leave it out"
        )
    at, name, length, ended = 0, b"", -1, False
    buffer, start = b"", 0

    def block() -> bytes:
        nonlocal buffer, start
        if not start <= at <= start + len(buffer) - BLOCK:
            buffer, start = read(_AHEAD, at), at
        return buffer[at - start : at - start + BLOCK]

    while at < size:
        header = block()
        if at == 0 and header[:2] == b"\x1f\x8b":
            raise DataError(f"data.source: {shown(where)} is compressed: gunzip it, then its members can be read one by one")
        if len(header) < BLOCK:
            raise _cut(where, size)
        if not header.strip(b"\0"):
            ended = True
            break
        if _number(header[148:156]) not in _sums(header):
            problem = "is no tar archive" if at == 0 else f"is damaged (no header at byte {at:,})"
            raise DataError(f"data.source: {shown(where)} {problem}; fetch it again, or leave it out")
        kind, held = header[156:157], _number(header[124:136])
        body = at + BLOCK
        if kind in b"LxgKX" and kind:
            if held > _HEADERS or body + held > size:
                raise _cut(where, size)
            text = read(held, body)
            if kind == b"L":
                name = text.rstrip(b"\0")
            elif kind in b"xX":
                found = dict(_pax(text))
                name, told = found.get(b"path", name), found.get(b"size", b"") or b"-1"
                if told != b"-1" and not told.isdigit():
                    raise DataError(
                        f"data.source: {shown(where)} is damaged (a size of {shown(os.fsdecode(told))}); fetch it again, or leave it out"
                    )
                length = int(told)
                if any(key.startswith(b"GNU.sparse") for key in found):
                    raise _sparse(where, name)
            at = body + -(-held // BLOCK) * BLOCK
            continue
        if kind == b"S":
            raise _sparse(where, header[:100].rstrip(b"\0"))
        held = held if length < 0 else length
        if kind in b"123456" and kind:  # links, devices, folders: nothing follows
            held = 0
            own = name or header[:100].partition(b"\0")[0]
            if kind in b"12" and suffix(os.fsdecode(own)) in SUFFIXES:
                raise DataError(
                    f"data.source: {shown(where)}: {shown(os.fsdecode(own))} is a link to {shown(os.fsdecode(header[157:257].partition(bytes(1))[0]))}, and no "
                    "image; pack what links mean: tar --dereference --hard-dereference --sort=name"
                )
        if body + held > size:
            raise _cut(where, size)
        if kind in _REGULAR or kind == b"":
            prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
            own = header[:100].partition(b"\0")[0]
            full = name or (prefix + b"/" + own if prefix else own)
            if not full.endswith(b"/"):
                yield Member(full, body, held)
        name, length = b"", -1
        at = body + -(-held // BLOCK) * BLOCK
    if not ended:
        raise _cut(where, size)


def _cut(where: object, size: int) -> DataError:
    return DataError(
        f"data.source: {shown(where)} is cut off after {size:,} bytes: a tar archive ends in zeros; fetch it again, leave it out, or, where it is whole "
        f"and was written without them, add them: truncate -s +1024 FILE"
    )


def _sparse(where: object, name: bytes) -> DataError:
    return DataError(
        f"data.source: {shown(where)}: {shown(name.decode(errors='surrogateescape'))} is a sparse file; pack it without --sparse"
    )


def _number(field: bytes) -> int:
    """Octal, or binary where the first bit says so."""
    if field[:1] >= b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return -1


def _sums(header: bytes) -> tuple[int, int]:
    """The checksum of a header with its own field as spaces, of unsigned and, as old tars have it, of signed bytes."""
    plain = sum(header[:148]) + 256 + sum(header[156:])
    return plain, plain - 256 * sum(byte > 127 for byte in header[:148] + header[156:])


def _pax(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of the records `LENGTH KEY=VALUE\\n`."""
    while text.strip(b"\0"):
        digits, _, _ = text.partition(b" ")
        if not digits.isdigit() or int(digits) <= len(digits):
            return
        record, text = text[len(digits) + 1 : int(digits) - 1], text[int(digits) :]
        key, _, value = record.partition(b"=")
        yield key, value
