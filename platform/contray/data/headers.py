"""What the first bytes of an encoded image say of it: its format, its size, its tags, its depth. Nothing is decoded."""

from __future__ import annotations

import io
import re
import struct
import warnings
from typing import Any

NUMBERS = (256, 257, 258, 262, 274, 277, 338)  # tags of TIFFs that are asked for, which damage can make into text


def is_jpeg(data: bytes | memoryview) -> bool:
    return bytes(data[:2]) == b"\xff\xd8"


def is_tiff(data: bytes | memoryview) -> bool:
    return bytes(data[:4]) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _brands(data: bytes | memoryview) -> set[bytes]:
    """What a file of boxes calls itself: AVIF and HEIC have one container."""
    head = bytes(data[:64])
    if head[4:8] != b"ftyp":
        return set()
    end = min(len(head), int.from_bytes(head[:4], "big"))
    return {head[place : place + 4] for place in (8, *range(16, end, 4))}


def is_avif(data: bytes | memoryview) -> bool:
    return not _brands(data).isdisjoint((b"avif", b"avis"))


def is_heic(data: bytes | memoryview) -> bool:
    return not _brands(data).isdisjoint((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"))


def is_narrow(data: bytes | memoryview) -> bool:
    """Whether a PGM or PPM says that its largest value is less than 255, which OpenCV does not heed."""
    found = re.match(rb"P[2356]" + 3 * rb"(?:\s|#.*\n)+(\d{1,9})", bytes(data[:4096]))
    return found is not None and int(found[3]) < 255


def claimed(data: bytes | memoryview, tags: Any) -> tuple[int, int] | None:
    """(width, height) that the header claims; None where it is of a format not known here."""
    head = bytes(data[:32])
    try:
        if head.startswith(b"\x89PNG"):
            return struct.unpack(">II", head[16:24])
        if head.startswith(b"BM"):
            width, height = struct.unpack("<ii", head[18:26])
            return abs(width), abs(height)
        if head.startswith((b"GIF87a", b"GIF89a")):
            return struct.unpack("<HH", head[6:10])
        if head[:4] == b"RIFF" and head[12:16] == b"VP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        if is_jpeg(data):
            return _jpeg_size(data)
        if tags is None:
            return _boxed_size(bytes(data[:4096]))
    except struct.error:  # torn
        return None
    return None if tags is None else (tag(tags, 256), tag(tags, 257))


def jpeg_channels(data: bytes | memoryview) -> int:
    """1, 3 or 4; 0 where no frame is."""
    frame = _jpeg_frame(data)
    return frame[2] if frame else 0


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    frame = _jpeg_frame(data)
    return frame and frame[:2]


def _jpeg_frame(data: bytes | memoryview) -> tuple[int, int, int] | None:
    """(width, height, channels) from the first frame header; thumbnails lie within other segments."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height, int.from_bytes(data[place + 9 : place + 10], "big")
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _boxed_size(head: bytes) -> tuple[int, int] | None:
    """Of JPEG 2000 and AVIF, whose boxes have names, and of PNM, which is text."""
    if (place := head.find(b"ihdr")) >= 0:
        height, width = struct.unpack(">II", head[place + 4 : place + 12])
        return width, height
    if (place := head.find(b"ispe")) >= 0:
        return struct.unpack(">II", head[place + 8 : place + 16])
    found = re.match(rb"P[1-7](?:\s|#.*\n)+(\d{1,9})\s+(\d{1,9})\s", head)
    return None if found is None else (int(found[1]), int(found[2]))


def tags_of(data: bytes | memoryview) -> Any:
    """A TIFF's first directory; None of anything else and where it is torn."""
    if not is_tiff(data):
        return None
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that are cut off
            found = ImageFileDirectory_v2(bytes(data[:16] if data[2] == 43 or data[3] == 43 else data[:8]))
            stream = io.BytesIO(data)
            stream.seek(found.next)
            found.load(stream)
            dict(found)  # tags are read when they are asked for
            for number in NUMBERS:
                value: Any = found.get(number, 0)
                if any(isinstance(part, (bytes, str)) for part in (value if isinstance(value, tuple) else (value,))):
                    return None
                tag(found, number)  # which no number can be made of where it is none, or infinite
    except Exception:  # Pillow's own checks are asserts, struct errors and others; the decoder says that it is torn
        return None
    return found


def tag(tags: Any, number: int, default: int = 1) -> int:
    """The largest number of a tag."""
    value: Any = tags.get(number, default)
    return int(max(value)) if isinstance(value, tuple) else int(value)


def may_be_deep(data: bytes | memoryview) -> bool:
    """Whether an image could have more than 8 bits, by its header."""
    head = bytes(data[:32])
    if head.startswith(b"\x89PNG"):
        return len(head) > 24 and head[24] == 16
    tags = tags_of(data)
    if tags is not None:
        return tag(tags, 258) > 8
    return not (is_jpeg(data) or head.startswith((b"BM", b"GIF8", b"RIFF")))


def left_out(data: bytes | memoryview) -> list[str]:
    """What of a file is not used, in words."""
    head, found = bytes(data[:32]), []
    if head.startswith(b"\x89PNG") and len(head) > 25 and head[25] in (4, 6):
        found.append("alpha is not used")
    tags = tags_of(data)
    if tags is not None:
        channels = tag(tags, 277)
        if channels > 3 and tag(tags, 262) == 2:
            found.append(f"channel 4 of {channels} is not used")
        elif channels == 2:
            found.append("alpha is not used")
        if tags.next:
            found.append("pages after the first are not used")
    if head.startswith((b"GIF8", b"RIFF")) and _frames(data) > 1:
        found.append("frames after the first are not used")
    return found


def _frames(data: bytes | memoryview) -> int:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return getattr(image, "n_frames", 1)
    except Exception:  # the decoder says what is wrong with it
        return 1
