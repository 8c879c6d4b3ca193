"""From an encoded file to 8-bit RGB: what its values mean, which of its channels and pages are used, and how large it may be.

Images of more than 8 bits have no range of their own that can be trusted (a 12-bit camera fills a sixteenth of 16 bits), and a range taken
of each image would change how bright images are beside each other. So a set has one range, measured on a sample of it: see `Depth.of`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..errors import DataError
from .headers import claimed, is_avif, is_heic, is_jpeg, is_narrow, is_tiff, left_out, may_be_deep, tag, tags_of

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what cannot be decoded is said by us, in one line

MOST_PIXELS = 2**28  # that are decoded of a file; a header may claim any number
MOST_BYTES = 2**30  # that the numbers of an image of any channels take
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

    def fraction(self, image: np.ndarray) -> np.ndarray:
        """float32 in [0, 1] of an image of any numbers. Images of 8 bits have a range of their own, 0 to 255."""
        low, high = (0.0, 255.0) if image.dtype == np.uint8 else (self.low, self.high)
        values = image.astype(np.float32 if image.dtype.itemsize < 4 or image.dtype == np.float32 else np.float64)
        values -= low
        values /= high - low
        return np.clip(values, 0, 1, out=values).astype(np.float32, copy=False)

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


def survey(samples: Iterable[tuple[str, bytes | memoryview]], given: Depth | None = None) -> Pixels:
    """Look at (name, encoded bytes) of some images; broken ones tell nothing. given: the range, where it need not be measured.

    Raises DataError where floats lie beside deep integers.
    """
    deep: list[np.ndarray] = []
    said: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}  # of numbers -> the first file of them
    count = 0
    for where, data in samples:
        count += 1
        for word in left_out(data):
            said.setdefault(word, []).append(where)
        if may_be_deep(data):
            try:
                image = values_of(data, where)
            except BrokenImage:
                continue
            if image.dtype != np.uint8:
                deep.append(np.array([image.min(), image.max()]))  # all that the range needs
                kinds.setdefault("floats" if image.dtype.kind == "f" else "integers of more than 8 bits", where)
    if len(kinds) > 1 and given is None:
        found = " and ".join(f"{kind} ({where})" for kind, where in kinds.items())
        raise DataError(
            f"data.source: files of {found} have no range in common, and a set has one; write them alike, or leave one kind out"
        )
    depth = (given or Depth.of(deep)) if deep else None
    notes = [f"{word} ({len(places)} of {count} sampled images, e.g. {places[0]})" for word, places in said.items()]
    if depth is not None:
        notes.insert(0, f"values of {depth} become 0 to 255 ({len(deep)} of {count} sampled images have more than 8 bits)")
    return Pixels(depth, tuple(notes))


# ---------------------------------------------------------------- decoding


def decode(
    data: bytes | memoryview | None,
    where: str,
    depth: Callable[[], Depth] | None = None,
    stored: bool = False,
    shorter_side: int = 0,
    exact: bool = True,
) -> np.ndarray:
    """An encoded image as (H, W, 3) uint8 RGB: turned as its EXIF says, without alpha and further channels, the first of several pages.

    depth: asked for where the image has more than 8 bits; None: it belongs to no set, and its own range is taken. stored: pixel for pixel as the
    file has them, neither turned nor reduced, for whoever has coordinates in it. shorter_side: reduced to this many px, never enlarged; 0: not.
    exact False: not below it, by the scale alone at which a JPEG is decoded. Raises BrokenImage.
    """
    if not data:
        raise BrokenImage(where, "no bytes")
    image = values_of(data, where, stored, shorter_side)
    if image.dtype != np.uint8:
        image = (depth() if depth else Depth.of([image]))(image)
    return reduced(image, shorter_side) if exact else image


def reduced(image: np.ndarray, shorter_side: int) -> np.ndarray:
    """(h, w, 3) of (H, W, 3), each pixel the mean of the area that it takes: min(h, w) is `shorter_side`, or min(H, W) where that is no larger."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    if not 0 < shorter_side < shorter:
        return image
    size = round(width * shorter_side / shorter), round(height * shorter_side / shorter)
    return resized(image, size, cv2.INTER_AREA)


def resized(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """(h, w, C) of an image (H, W, C) of any C for size (w, h). OpenCV averages areas of four channels at most, and drops the axis of one."""
    if image.shape[2] == 3:
        return cv2.resize(image, size, interpolation=interpolation)
    parts = [cv2.resize(image[:, :, at : at + 4], size, interpolation=interpolation) for at in range(0, image.shape[2], 4)]
    return np.concatenate([part if part.ndim == 3 else part[:, :, None] for part in parts], 2)


def antialiased(image: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """(h, w, C) of a uint8 image (H, W, C), or a float32 one in [0, 1], for size (w, h): `bilinear` or `bicubic` over all pixels that are shrunk to one.

    torchvision's resize; Pillow's too, to 1 grey level (bicubic: 2).
    """
    stored = np.require(image, requirements=["C", "W"])  # torch warns of what cannot be written
    pixels = torch.from_numpy(stored).permute(2, 0, 1)[None]
    found = F.interpolate(pixels, size[::-1], mode=mode, antialias=True, align_corners=False)[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(found if image.dtype == np.uint8 else np.clip(found, 0, 1))


def values_of(data: bytes | memoryview, where: str, stored: bool = False, shorter_side: int = 0) -> np.ndarray:
    """(H, W, 3) RGB of whatever numbers the file holds; a JPEG's may be of a smaller scale, its shorter side at least `shorter_side`."""
    tags = tags_of(data)
    size = claimed(data, tags)
    if size is not None:
        if is_jpeg(data) and not stored:
            if (scale := _scale(size, shorter_side)) > 1:
                return _reduced(data, scale, where)
        elif size[0] * size[1] > REDUCED_FROM:
            check_size(size, where)
    # OpenCV turns no AVIF, and swaps the colours of those with alpha
    if is_avif(data) or is_narrow(data) or (tags is not None and not _opencv_understands(tags, where)):
        return _pillow(data, where, stored)
    turn = cv2.IMREAD_IGNORE_ORIENTATION if stored else 0
    if stored and tags is not None and tag(tags, 274) != 1:  # OpenCV turns every TIFF
        raise BrokenImage(
            where, f"its tag 274 says {tag(tags, 274)}, so it is shown turned; save it as it is shown, with the tag 1"
        )
    if is_tiff(data):  # OpenCV 5 makes noise of 16-bit TIFFs that it is asked for as RGB
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
    if image.dtype == np.uint16 and tags is not None and tag(tags, 262) == 0:  # white is zero; OpenCV inverts 8 bits alone
        return 65535 - image
    return image


def _opencv_understands(tags: Any, where: str) -> bool:
    """Whether OpenCV reads a TIFF of these tags as what it is. Raises BrokenImage where nobody could say which channels are colours."""
    channels, photometric, extra = tag(tags, 277), tag(tags, 262), tag(tags, 338, -1)
    grey = photometric in (0, 1)
    if channels == 4 and photometric == 2 and extra == 2 and tag(tags, 258) <= 8:
        return False  # it multiplies the colours by the alpha
    if channels > 4 or (grey and channels > 1 and not (channels == 2 and extra in (1, 2))):
        what = "which the file calls grey" if grey else "of which 4 at most can be read"
        raise BrokenImage(
            where,
            f"{channels} channels, {what}; give --data.channels {channels}, or save it as grey, or as RGB with at most one channel more",
        )
    return tag(tags, 258) <= 8 or (photometric in (0, 1, 2) and channels != 2)


def _opencv(data: bytes | memoryview, flags: int, where: str) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # e.g. a header that claims more pixels than OpenCV takes
        raise BrokenImage(where, f"not decodable ({' '.join(error.err.split())})") from error


def _scale(size: tuple[int, int], shorter_side: int) -> int:
    """1, 2, 4 or 8, by which a JPEG is divided as it is decoded: the least that leaves at most REDUCED_FROM pixels, and the most that leaves
    `shorter_side`.
    """
    fitting = next((scale for scale in (1, 2, 4) if size[0] * size[1] <= REDUCED_FROM * scale * scale), 8)
    enough = next((scale for scale in (8, 4, 2) if 0 < shorter_side <= min(size) // scale), 1)
    return max(fitting, enough)


def _reduced(data: bytes | memoryview, scale: int, where: str) -> np.ndarray:
    """A JPEG at a half, a quarter or an eighth of its size, of which the inverse DCT is not done in full."""
    flags = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    image = _opencv(data, flags[scale], where)
    if image is None:
        raise BrokenImage(where, "not decodable")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def check_size(size: tuple[int, int], where: str, each: int = 0) -> None:
    """Raises BrokenImage of more pixels than are decoded, or of none; each: bytes that one takes, of images of any channels."""
    if size[0] * size[1] > MOST_PIXELS:
        raise BrokenImage(where, f"{size[0]} x {size[1]} px are claimed, more than the {MOST_PIXELS:,} that are decoded")
    if each and not 0 < size[0] * size[1] * each <= MOST_BYTES:
        raise BrokenImage(
            where,
            f"{size[0]} x {size[1]} px of {each} bytes are claimed, which is none or more than the {MOST_BYTES:,} bytes decoded",
        )


def _pillow(data: bytes | memoryview, where: str, stored: bool = False) -> np.ndarray:
    """The second reader, for what OpenCV was built without or takes for something else."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are looked at here
            with Image.open(io.BytesIO(data)) as image:
                check_size(image.size, where)
                if image.format == "EPS":  # a program, which Pillow would have Ghostscript run
                    raise BrokenImage(where, "it is EPS, which is not read; save it as PNG")
                turned = image if stored else ImageOps.exif_transpose(image)
                if turned.mode in ("I", "F") or turned.mode.startswith("I;"):
                    return _rgb_of(np.asarray(turned), where)
                return np.array(turned.convert("RGB"))
    except (BrokenImage, MemoryError):
        raise
    except Exception:  # of damaged files its plugins raise whatever they meet
        raise BrokenImage(where, _instead(data)) from None


def _instead(data: bytes | memoryview) -> str:
    """What a file is that is no image, where it is one that people often have."""
    head = bytes(data[:64]).lstrip().lower()
    if is_heic(data) and not is_avif(data):  # both may bear the brand mif1
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
