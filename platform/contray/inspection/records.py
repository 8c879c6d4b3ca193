"""What is kept of each image: half a kilobyte in one array, whatever the image's size, so that millions of them are one file that processes share."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import PurePath

import cv2
import numpy as np

from ..data.headers import claimed, is_avif, is_heic, is_jpeg, is_tiff, tag, tags_of

GREY, CHROMA = 16, 8  # sides of the thumbnails: of brightness, and of each of Cr and Cb
BROKEN, READ = 1, 2  # states; 0: not looked at
CUT_OFF, MISNAMED = 1, 2  # flags
FORMATS = ("", "JPEG", "PNG", "TIFF", "GIF", "WebP", "BMP", "AVIF", "HEIC", "JPEG 2000", "PNM", "other")
MODES = ("", "grey", "RGB", "RGB with alpha", "grey with alpha", "palette", "CMYK", "other")
SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"), **dict.fromkeys((".png", ".apng"), "PNG"), **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"), **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PNM"), **dict.fromkeys((".jp2", ".j2k"), "JPEG 2000"),
    **dict.fromkeys((".heic", ".heif"), "HEIC"), ".gif": "GIF", ".webp": "WebP", ".avif": "AVIF",
}  # fmt: skip


def dtype(channels: int) -> np.dtype:
    """Of the array of records. width, height: px that the file claims; decoded: bytes of the pixels as training reads them; nbytes: of the file.

    file, pixels: 128-bit digests. mean, square: of the values and of their squares in each channel, of [0, 1].
    """
    small = [
        ("state", "u1"),
        ("format", "u1"),
        ("mode", "u1"),
        ("bits", "u1"),
        ("flags", "u1"),
        ("width", "u4"),
        ("height", "u4"),
    ]
    sums = [("mean", "f8", (channels,)), ("square", "f8", (channels,))]
    thumbs = [("grey", "u1", (GREY, GREY)), ("chroma", "i1", (2, CHROMA, CHROMA))]
    return np.dtype([*small, ("decoded", "i8"), ("nbytes", "i8"), ("file", "u8", (2,)), ("pixels", "u8", (2,)), *sums, *thumbs])


def measure_file(record: np.void, data: bytes | memoryview, name: str) -> None:
    """What the encoded bytes say. name: whose suffix is held against what the file is."""
    tags = tags_of(data)
    kind, mode, bits = kind_of(data)
    record["nbytes"], record["file"] = len(data), digest(data)
    record["format"], record["mode"], record["bits"] = FORMATS.index(kind), MODES.index(mode), bits
    record["width"], record["height"] = claimed(data, tags) or (0, 0)
    said = SUFFIXES.get(PurePath(name).suffix.lower(), kind)
    record["flags"] = CUT_OFF * cut_off(data, kind) | MISNAMED * (said != kind and kind not in ("", "other"))


def measure_pixels(record: np.void, image: np.ndarray) -> None:
    """What the decoded image says: (H, W, C) uint8, or float32 in [0, 1] of its set's range, whose thumbnail is of the image's own range."""
    height, width = image.shape[:2]
    if not record["width"]:
        record["width"], record["height"] = width, height
    record["decoded"], record["pixels"] = image.nbytes, digest(np.ascontiguousarray(image), repr(image.shape).encode())
    channels = record["mean"].shape[0]
    if image.dtype == np.uint8 and channels <= 4:
        mean, deviation = (values[:channels, 0] / 255 for values in cv2.meanStdDev(image))
    else:
        values = image.reshape(-1, channels).astype(np.float64) / (255 if image.dtype == np.uint8 else 1)
        mean, deviation = values.mean(0), values.std(0)
    record["mean"], record["square"] = mean, deviation**2 + mean**2
    if image.dtype != np.uint8 or channels > 4:
        grey = image.astype(np.float32).reshape(height, width, -1).mean(2)
        low, spread = float(grey.min()), float(np.ptp(grey))
        image = np.rint((grey - low) * (255 / spread) if spread else np.zeros_like(grey)).astype(np.uint8)
    small = cv2.resize(image, (GREY, GREY), interpolation=cv2.INTER_AREA)
    if small.ndim == 2 or small.shape[2] != 3:
        record["grey"] = small if small.ndim == 2 else small.mean(2)
    else:
        luma = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb)
        record["grey"] = luma[:, :, 0]
        record["chroma"] = (
            np.moveaxis(cv2.resize(luma[:, :, 1:], (CHROMA, CHROMA), interpolation=cv2.INTER_AREA), 2, 0).astype(int) - 128
        )
    record["state"] = READ


def digest(*parts: bytes | memoryview | np.ndarray) -> np.ndarray:
    """(2,) uint64."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part.tobytes() if isinstance(part, np.ndarray) else part)
    return np.frombuffer(found.digest(), np.uint64)


# ---------------------------------------------------------------- what a file is


def kind_of(data: bytes | memoryview) -> tuple[str, str, int]:
    """(one of FORMATS, one of MODES, bits of a channel; 0: not known), by the header."""
    head = bytes(data[:32])
    if is_jpeg(data):
        return "JPEG", *_jpeg(data)
    if head.startswith(b"\x89PNG"):
        modes = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
        return "PNG", modes.get(head[25] if len(head) > 25 else -1, ""), head[24] if len(head) > 24 else 0
    if is_tiff(data):
        return "TIFF", *_tiff(data)
    if is_heic(data) and not is_avif(data):
        return "HEIC", "", 0
    return _pillow(data)


def _jpeg(data: bytes | memoryview) -> tuple[str, int]:
    place = _frame(data)
    if place is None:
        return "", 0
    return {1: "grey", 3: "RGB", 4: "CMYK"}.get(data[place + 9], "other"), data[place + 4]


def _frame(data: bytes | memoryview) -> int | None:
    """Where a JPEG's frame header lies; thumbnails lie within other segments."""
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return place
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _tiff(data: bytes | memoryview) -> tuple[str, int]:
    tags = tags_of(data)
    if tags is None:
        return "", 0
    channels, photometric = tag(tags, 277), tag(tags, 262)
    if photometric in (0, 1):
        mode = "grey" if channels == 1 else "grey with alpha" if channels == 2 else "other"
    else:
        mode = {2: "RGB" if channels == 3 else "RGB with alpha", 3: "palette", 5: "CMYK", 6: "RGB"}.get(photometric, "other")
    return mode, tag(tags, 258)


def _pillow(data: bytes | memoryview) -> tuple[str, str, int]:
    from PIL import Image

    kinds = {"GIF": "GIF", "WEBP": "WebP", "BMP": "BMP", "DIB": "BMP", "AVIF": "AVIF", "JPEG2000": "JPEG 2000", "PPM": "PNM"}
    modes = {
        "1": "grey",
        "L": "grey",
        "P": "palette",
        "RGB": "RGB",
        "RGBA": "RGB with alpha",
        "LA": "grey with alpha",
        "CMYK": "CMYK",
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                deep = image.mode.startswith("I") or image.mode == "F"
                return (
                    kinds.get(image.format or "", "other"),
                    modes.get(image.mode, "grey" if deep else "other"),
                    16 if deep else 8,
                )
    except Exception:  # the decoder says what is wrong with it
        return "other", "", 0


def cut_off(data: bytes | memoryview, kind: str) -> bool:
    """Whether a file ends before its picture does, which some decoders forgive without a word."""
    whole = bytes(data)
    if kind == "JPEG":  # an end within a thumbnail, which lies before the scan, is none
        place = _frame(whole)
        return whole.rfind(b"\xff\xd9") < (len(whole) if place is None else whole.find(b"\xff\xda", place))
    if kind == "PNG":
        return b"IEND" not in whole[-65536:]
    if kind == "GIF":
        return b";" not in whole[-64:]
    return kind == "WebP" and int.from_bytes(whole[4:8], "little") + 8 > len(whole)
