"""TIFFs of any number of channels and pages, in the numbers that they hold.

OpenCV's libtiff undoes the compression of a page, which it is shown as grey of 8 bits, and NumPy gives the bytes their meaning: OpenCV and Pillow
themselves read four channels at most.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import cv2
import numpy as np

from .pixels import BrokenImage, check_size

_PAGES = 1024  # that are looked at
_PACKED = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}
_KINDS = {1: "u", 2: "i", 3: "f"}  # of tag 339
_TURNS = {  # tag 274: how the stored rows are shown
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x[::-1].transpose(1, 0, 2),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x[:, ::-1].transpose(1, 0, 2),
}


def pages_of(data: bytes | memoryview, where: str) -> list[Any]:
    """The directories of the pages that are alike, without those that are the first one in small or its mask. Raises BrokenImage."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    stream, found, seen = io.BytesIO(data), list[Any](), set[int]()
    big = 43 in data[2:4]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that are cut off
            place = ImageFileDirectory_v2(bytes(data[: 16 if big else 8])).next
            while place and place not in seen and len(found) < _PAGES:
                seen.add(place)
                tags = ImageFileDirectory_v2(bytes(data[: 16 if big else 8]))
                stream.seek(place)
                tags.load(stream)
                dict(tags)  # tags are read when they are asked for
                if not found or not _one(tags, 254, 0) & 5:
                    found.append(tags)
                place = tags.next
    except Exception:  # Pillow's own checks are asserts, struct errors and others
        if not found:
            raise BrokenImage(where, "not decodable") from None
    if not found:
        raise BrokenImage(where, "not decodable")
    return [tags for tags in found if _form(tags) == _form(found[0])]


def plain(tags: Any) -> bool:
    """Whether the channels are stored as numbers: no palette, no JPEG, no bits that share a byte."""
    return _one(tags, 259) in _PACKED and _one(tags, 262, 1) in (0, 1, 2, 5) and set(_bits(tags)) <= {8, 16, 32, 64}


def channels_of(tags: Any) -> int:
    return _one(tags, 277)


def page(data: bytes | memoryview, tags: Any, where: str) -> np.ndarray:
    """(H, W, C) of a page that is `plain`, turned as it is shown. Raises BrokenImage."""
    width, height, channels = _one(tags, 256, 0), _one(tags, 257, 0), channels_of(tags)
    bits, kinds = set(_bits(tags)), set(_many(tags, 339) or [1])
    if len(bits) > 1 or len(kinds) > 1 or not kinds <= _KINDS.keys() or (kinds == {3} and bits == {8}):
        raise BrokenImage(where, "its channels are no numbers of one kind, or complex ones")
    if channels < 1:
        raise BrokenImage(where, "no channels, so it is damaged")
    size = bits.pop() // 8
    kind = np.dtype(f"{'>' if bytes(data[:2]) == b'MM' else '<'}{_KINDS[kinds.pop()]}{size}")
    check_size((width, height), where, channels * size)
    apart = channels > 1 and _one(tags, 284) == 2  # a plane for each channel
    together = 1 if apart else channels  # channels that lie side by side
    across = width
    if 322 in tags:
        tile, rows = _one(tags, 322), _one(tags, 323)
        across = -(-width // max(tile, 1)) * tile
        places, counts = _many(tags, 324), _many(tags, 325)
        if tile < 1 or rows < 1 or tile % 16 or rows % 16:
            raise BrokenImage(where, f"tiles of {tile} x {rows} px, which TIFF does not have")
        check_size((across, -(-height // rows) * rows), where, channels * size)
        each = -(-height // rows) * (across // tile)
    else:
        tile, rows = 0, min(_one(tags, 278, height), height) or height
        places, counts = _many(tags, 273), _many(tags, 279)
        each = -(-height // rows)
    planes = channels if apart else 1
    if len(places) != each * planes or len(counts) != len(places):
        raise BrokenImage(where, f"{len(places)} of {each * planes} pieces, so it is cut off or damaged")
    if any(not 0 < place <= place + count <= len(data) for place, count in zip(places, counts, strict=True)):
        raise BrokenImage(where, "pieces lie beyond its end, so it is cut off or damaged")
    found = []
    for plane in range(planes):
        pieces = [bytes(data[place : place + count]) for place, count in _of_plane(places, counts, plane, each)]
        if tile:  # each is a piece of the full size, and all of them a picture as wide as one of them
            raw = _unpacked(pieces, tags, (tile * together * size, rows * each), rows, where)
            raw = (
                raw.reshape(-1, across // tile, rows, raw.shape[1]).swapaxes(1, 2).reshape(-1, across * together * size)[:height]
            )
        else:
            raw = _unpacked(pieces, tags, (width * together * size, height), rows, where)
        values = _predicted(raw, _one(tags, 317), (tile or width, together), kind, where)  # (H, across, C')
        found.append(values[:, :width])
    image = np.concatenate(found, 2) if len(found) > 1 else found[0]
    image = image.astype(kind.newbyteorder("="), copy=False)
    if _one(tags, 262, 1) == 0 and kind.kind == "u":  # white is zero
        image = np.iinfo(image.dtype).max - image
    return np.ascontiguousarray(_TURNS.get(_one(tags, 274), lambda x: x)(image))


def _of_plane(places: list[int], counts: list[int], plane: int, each: int) -> list[tuple[int, int]]:
    part = slice(plane * each, (plane + 1) * each)
    return list(zip(places[part], counts[part], strict=True))


def _unpacked(pieces: list[bytes], tags: Any, size: tuple[int, int], rows: int, where: str) -> np.ndarray:
    """(H, W) uint8: the bytes in strips of so many rows, by a TIFF of one channel of 8 bits that has them."""
    width, height = size
    if _one(tags, 259) == 1:
        sizes = [width * min(rows, height - top) for top in range(0, height, rows)]
        if any(len(piece) < size for piece, size in zip(pieces, sizes, strict=True)):
            raise BrokenImage(where, "pieces are too short, so it is cut off or damaged")
        whole = b"".join(piece[:size] for piece, size in zip(pieces, sizes, strict=True))
        return np.frombuffer(whole, np.uint8).reshape(height, width)
    starts, at = [], 8
    for each in pieces:
        starts.append(at)
        at += len(each)
    kept = {256: [width], 257: [height], 258: [8], 259: [_one(tags, 259)], 262: [1], 277: [1]}
    lengths = [len(each) for each in pieces]
    if _one(tags, 266) == 2:
        kept[266] = [2]
    kept |= {273: starts, 278: [rows], 279: lengths}
    at += at % 2
    lists, entries, beyond = b"", b"", at + 2 + 12 * len(kept) + 4
    for number, values in sorted(kept.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        place = packed if len(values) == 1 else struct.pack("<I", beyond + len(lists))
        lists += packed if len(values) > 1 else b""
        entries += struct.pack("<HHI", number, 4, len(values)) + place
    body = b"".join(pieces)
    head = struct.pack("<2sHI", b"II", 42, at)
    file = head + body + b"\0" * (at - 8 - len(body)) + struct.pack("<H", len(kept)) + entries + struct.pack("<I", 0) + lists
    try:
        found = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BrokenImage(where, f"not decodable ({' '.join(error.err.split())})") from error
    if found is None or found.shape != (height, width):
        raise BrokenImage(where, f"not decodable (compressed by {_PACKED[_one(tags, 259)]})")
    return found


def _predicted(raw: np.ndarray, predictor: int, across: tuple[int, int], kind: np.dtype, where: str) -> np.ndarray:
    """(H, W, C) of bytes (H, W * C * size), where differences along the rows of each piece, so many px wide, were stored (tag 317)."""
    (piece, channels), height = across, len(raw)
    if (
        predictor == 3 and kind.kind == "f"
    ):  # bytes of equal rank lie together, the highest first, and are differences (Adobe's note 3)
        parts = raw.reshape(height, -1, piece * kind.itemsize, channels)
        parts = np.cumsum(parts, axis=2, dtype=np.uint8).reshape(height, -1, kind.itemsize, piece * channels)
        values = np.ascontiguousarray(parts.swapaxes(2, 3)).view(f">f{kind.itemsize}")
        return values.reshape(height, -1, channels)
    values = np.ascontiguousarray(raw).view(kind).reshape(height, -1, piece, channels)
    if predictor == 2 and kind.kind in "ui":
        values = np.cumsum(values, axis=2, dtype=kind.newbyteorder("="))
    elif predictor != 1:
        raise BrokenImage(where, f"the predictor {predictor} of {kind}, which is not known here")
    return values.reshape(height, -1, channels)


def _form(tags: Any) -> tuple[object, ...]:
    return tuple(_one(tags, number, 0) for number in (256, 257, 277)), tuple(_bits(tags)), tuple(_many(tags, 339))


def _bits(tags: Any) -> list[int]:
    return _many(tags, 258) or [1]


def _many(tags: Any, number: int) -> list[int]:
    value: Any = tags.get(number, ())
    try:
        return [int(each) for each in (value if isinstance(value, tuple) else (value,))]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return []


def _one(tags: Any, number: int, default: int = 1) -> int:
    return next(iter(_many(tags, number)), default)
