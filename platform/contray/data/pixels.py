"""From an encoded file to 8-bit RGB: what its values mean, which of its channels and pages are used, and how large it may be.

Images of more than 8 bits have no range of their own that can be trusted (a 12-bit camera fills a sixteenth of 16 bits), and a range taken
of each image would change how bright images are beside each other. So a set has one range, measured on a sample of it: see `Depth.of`.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..errors import DataError

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what cannot be decoded is said by us, in one line

MOST_PIXELS = 2**28  # that are decoded of a file; a header may claim any number
REDUCED_FROM = 2**25  # pixels from which a JPEG is decoded at a half, a quarter or an eighth of its scale
_BITS = (8, 10, 12, 14, 16, 32)  # that cameras and scanners have
_ROUGH = 1 / 16  # of a nominal range: data that span less have another one


class BrokenImage(Exception):
    """An image that no retry will mend: undecodable, empty or gone."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where, self.reason = where, reason

    def __reduce__(self) -> tuple[type[BrokenImage], tuple[str, str]]:
        return (BrokenImage, (self.where, self.reason))


# ---------------------------------------------------------------- range


@dataclass(frozen=True)
class Depth:
    """The range of a set's images of more than 8 bits: `low` becomes 0, `high` 255, what lies beyond is clipped."""

    low: float
    high: float

    @classmethod
    def of(cls, images: Sequence[np.ndarray]) -> Depth:
        """Of integers from 0 on: all of the 8, 10, 12, 14, 16 or 32 bits that the largest value needs. Of floats: [0, 1] or [0, 255],
        where they lie within and fill a sixteenth of it. Else what was measured.
        """
        low, high = min(float(image.min()) for image in images), max(float(image.max()) for image in images)
        if all(image.dtype.kind in "iu" for image in images):
            nominal = [float(2**bits - 1) for bits in _BITS]
        else:
            nominal = [1.0, 255.0]
        fitting = next((top for top in nominal if high <= top), None)
        if low < 0 or fitting is None or (nominal[0] == 1.0 and high - low < _ROUGH * fitting):
            return cls(low, high if high > low else low + 1)
        return cls(0.0, fitting)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 of an image of any numbers."""
        if image.dtype == np.uint16 and self.low == 0:
            return cv2.convertScaleAbs(image, alpha=255 / self.high)  # rounds and saturates, without copies in between
        values = image.astype(np.float32 if image.dtype.itemsize < 4 or image.dtype == np.float32 else np.float64)
        values -= self.low
        values *= 255 / (self.high - self.low)
        return np.rint(np.clip(values, 0, 255, out=values), out=values).astype(np.uint8)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Pixels:
    """What a sample of a set tells of its files. depth: of images of more than 8 bits, None without any; notes: what is left out of the files."""

    depth: Depth | None
    notes: tuple[str, ...]


def of_set(depth: Depth | None, where: str) -> Depth:
    """The range for an image of more than 8 bits. Raises BrokenImage where its set has none: its own would make it as bright as any other."""
    if depth is None:
        raise BrokenImage(where, "it has more than 8 bits, unlike the sampled images that tell what this set's values mean")
    return depth


def survey(samples: Iterable[tuple[str, bytes | memoryview]]) -> Pixels:
    """Look at (name, encoded bytes) of some images; broken ones tell nothing. Raises DataError where floats lie beside deep integers."""
    deep: list[np.ndarray] = []
    said: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}  # of numbers -> the first file of them
    count = 0
    for where, data in samples:
        count += 1
        for word in _left_out(data):
            said.setdefault(word, []).append(where)
        if _may_be_deep(data):
            try:
                image = _values(data, where)
            except BrokenImage:
                continue
            if image.dtype != np.uint8:
                deep.append(np.array([image.min(), image.max()]))  # all that the range needs
                kinds.setdefault("floats" if image.dtype.kind == "f" else "integers of more than 8 bits", where)
    if len(kinds) > 1:
        found = " and ".join(f"{kind} ({where})" for kind, where in kinds.items())
        raise DataError(
            f"data.source: files of {found} have no range in common, and a set has one; write them alike, or leave one kind out"
        )
    depth = Depth.of(deep) if deep else None
    notes = [f"{word} ({len(places)} of {count} sampled images, e.g. {places[0]})" for word, places in said.items()]
    if depth is not None:
        notes.insert(0, f"values of {depth} become 0 to 255 ({len(deep)} of {count} sampled images have more than 8 bits)")
    return Pixels(depth, tuple(notes))


# ---------------------------------------------------------------- decoding


def decode(
    data: bytes | memoryview | None, where: str, depth: Callable[[], Depth] | None = None, stored: bool = False
) -> np.ndarray:
    """An encoded image as (H, W, 3) uint8 RGB: turned as its EXIF says, without alpha and further channels, the first of several pages.

    depth: asked for where the image has more than 8 bits; None: it belongs to no set, and its own range is taken. stored: pixel for pixel as the
    file has them, neither turned nor reduced, for whoever has coordinates in it. Raises BrokenImage.
    """
    if not data:
        raise BrokenImage(where, "no bytes")
    image = _values(data, where, stored)
    if image.dtype == np.uint8:
        return image
    return (depth() if depth else Depth.of([image]))(image)


def _values(data: bytes | memoryview, where: str, stored: bool = False) -> np.ndarray:
    """(H, W, 3) RGB of whatever numbers the file holds."""
    tags = _tags(data)
    size = _claimed(data, tags)
    if size is not None and size[0] * size[1] > REDUCED_FROM:
        if _is_jpeg(data) and not stored:
            return _reduced(data, size, where)
        _check_size(size, where)
    # OpenCV turns no AVIF, and swaps the colours of those with alpha
    if _is_avif(data) or (tags is not None and not _opencv_understands(tags, where)):
        return _pillow(data, where, stored)
    turn = cv2.IMREAD_IGNORE_ORIENTATION if stored else 0
    if stored and tags is not None and _tag(tags, 274) != 1:  # OpenCV turns every TIFF
        raise BrokenImage(
            where, f"its tag 274 says {_tag(tags, 274)}, so it is shown turned; save it as it is shown, with the tag 1"
        )
    if _is_tiff(data):  # OpenCV 5 makes noise of 16-bit TIFFs that it is asked for as RGB
        image = _opencv(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | turn, where)
        if image is not None and image.dtype in (np.uint8, np.uint16):
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    else:
        image = _opencv(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | turn, where)
    if image is None or image.dtype not in (np.uint8, np.uint16):  # of floats and signed integers this is not what the file holds
        image = _opencv(data, cv2.IMREAD_UNCHANGED, where)
        if image is None:
            return _pillow(data, where, stored)
        image = _rgb_of(image, where)
    if image.dtype == np.uint16 and tags is not None and _tag(tags, 262) == 0:  # white is zero; OpenCV inverts 8 bits alone
        return 65535 - image
    return image


def _opencv_understands(tags: Any, where: str) -> bool:
    """Whether OpenCV reads a TIFF of these tags as what it is. Raises BrokenImage where nobody could say which channels are colours."""
    channels, photometric, extra = _tag(tags, 277), _tag(tags, 262), _tag(tags, 338, -1)
    grey = photometric in (0, 1)
    if channels == 4 and photometric == 2 and extra == 2 and _tag(tags, 258) <= 8:
        return False  # it multiplies the colours by the alpha
    if channels > 4 or (grey and channels > 1 and not (channels == 2 and extra in (1, 2))):
        what = "which the file calls grey" if grey else "of which 4 at most can be read"
        raise BrokenImage(where, f"{channels} channels, {what}; save it as grey, or as RGB with at most one channel more")
    return _tag(tags, 258) <= 8 or (photometric in (0, 1, 2) and channels != 2)


def _opencv(data: bytes | memoryview, flags: int, where: str) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # e.g. a header that claims more pixels than OpenCV takes
        raise BrokenImage(where, f"not decodable ({' '.join(error.err.split())})") from error


def _reduced(data: bytes | memoryview, size: tuple[int, int], where: str) -> np.ndarray:
    """A JPEG at the largest scale that leaves at most REDUCED_FROM pixels, or at an eighth."""
    flags = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    scale = next((scale for scale in (2, 4) if size[0] * size[1] <= REDUCED_FROM * scale * scale), 8)
    image = _opencv(data, flags[scale], where)
    if image is None:
        raise BrokenImage(where, "not decodable")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _pillow(data: bytes | memoryview, where: str, stored: bool = False) -> np.ndarray:
    """The second reader, for what OpenCV was built without or takes for something else."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are looked at here
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image.size, where)
                if image.format == "EPS":  # a program, which Pillow would have Ghostscript run
                    raise BrokenImage(where, "it is EPS, which is not read; save it as PNG")
                turned = image if stored else ImageOps.exif_transpose(image)
                if turned.mode in ("I", "F") or turned.mode.startswith("I;"):
                    return _rgb_of(np.asarray(turned), where)
                return np.array(turned.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, struct.error, Image.DecompressionBombError):
        raise BrokenImage(where, _instead(data)) from None


def _instead(data: bytes | memoryview) -> str:
    """What a file is that is no image, where it is one that people often have."""
    head = bytes(data[:64]).lstrip().lower()
    if _is_heic(data):
        return "it is HEIC, which is not read here; save it as JPEG or PNG"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the image; fetch it with git lfs pull"
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, as failed downloads leave; fetch it again"
    return "not decodable"


def _rgb_of(image: np.ndarray, where: str) -> np.ndarray:
    """(H, W, 3) of an image (H, W) or (H, W, C) of OpenCV's order, C 1, 3 or 4. Raises BrokenImage for what are no numbers."""
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise BrokenImage(where, "some of its values are no finite numbers")
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, 2)
    return np.ascontiguousarray(image[:, :, 2::-1])


# ---------------------------------------------------------------- headers


def _check_size(size: tuple[int, int], where: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise BrokenImage(where, f"{size[0]} x {size[1]} px are claimed, more than the {MOST_PIXELS:,} that are decoded")


def _is_jpeg(data: bytes | memoryview) -> bool:
    return bytes(data[:2]) == b"\xff\xd8"


def _is_tiff(data: bytes | memoryview) -> bool:
    return bytes(data[:4]) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _brands(data: bytes | memoryview) -> set[bytes]:
    """What a file of boxes calls itself: AVIF and HEIC have one container."""
    head = bytes(data[:64])
    if head[4:8] != b"ftyp":
        return set()
    end = min(len(head), int.from_bytes(head[:4], "big"))
    return {head[place : place + 4] for place in (8, *range(16, end, 4))}


def _is_avif(data: bytes | memoryview) -> bool:
    return not _brands(data).isdisjoint((b"avif", b"avis"))


def _is_heic(data: bytes | memoryview) -> bool:
    return not _brands(data).isdisjoint((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"))


def _claimed(data: bytes | memoryview, tags: Any) -> tuple[int, int] | None:
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
        if _is_jpeg(data):
            return _jpeg_size(data)
        if tags is None:
            return _boxed_size(bytes(data[:4096]))
    except struct.error:  # torn
        return None
    return None if tags is None else (_tag(tags, 256), _tag(tags, 257))


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """From the first frame header; thumbnails lie within other segments."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
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


def _tags(data: bytes | memoryview) -> Any:
    """A TIFF's first directory; None of anything else and where it is torn."""
    if not _is_tiff(data):
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
    except Exception:  # Pillow's own checks are asserts, struct errors and others; the decoder says that it is torn
        return None
    return found


def _tag(tags: Any, number: int, default: int = 1) -> int:
    """The largest number of a tag."""
    value: Any = tags.get(number, default)
    return int(max(value)) if isinstance(value, tuple) else int(value)


def _may_be_deep(data: bytes | memoryview) -> bool:
    """Whether an image could have more than 8 bits, by its header."""
    head = bytes(data[:32])
    if head.startswith(b"\x89PNG"):
        return len(head) > 24 and head[24] == 16
    tags = _tags(data)
    if tags is not None:
        return _tag(tags, 258) > 8
    return not (_is_jpeg(data) or head.startswith((b"BM", b"GIF8", b"RIFF")))


def _left_out(data: bytes | memoryview) -> list[str]:
    """What of a file is not used, in words."""
    head, found = bytes(data[:32]), []
    if head.startswith(b"\x89PNG") and len(head) > 25 and head[25] in (4, 6):
        found.append("alpha is not used")
    tags = _tags(data)
    if tags is not None:
        channels = _tag(tags, 277)
        if channels > 3 and _tag(tags, 262) == 2:
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
