"""Files as (H, W, C) of the numbers and channels that they hold: TIFF of any bands and pages, .npy, .npz, DICOM, a file for each band, and what
OpenCV reads. Nothing is unpickled, and no header is believed beyond MOST_BYTES.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib

import cv2
import numpy as np

from ..errors import UserError
from . import bands, tiff
from .headers import is_jpeg, is_tiff, jpeg_channels
from .pixels import MOST_BYTES, BrokenImage, check_size, resized, values_of

SUFFIXES = frozenset({".npy", ".npz", ".dcm"})  # of files that are images where data.channels is set
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_PNG = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # colour type -> channels


class OtherChannels(BrokenImage):
    """An image of so many channels, where another number is asked for."""

    def __init__(self, where: str, reason: str, channels: int) -> None:
        super().__init__(where, reason)
        self.channels = channels

    def __reduce__(self) -> tuple[type[OtherChannels], tuple[str, str, int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (OtherChannels, (self.where, self.reason, self.channels))


def native(data: bytes | memoryview | None, where: str, channels: int) -> np.ndarray:
    """(H, W, channels) of the file's own numbers, uint8 of bits. Raises BrokenImage, of which OtherChannels, and UserError where a library is lacking."""
    if not data:
        raise BrokenImage(where, "no bytes")
    if bands.is_packed(data):
        image = _banded(data, where)
    elif is_tiff(data):
        image = _tiff(data, where, channels)
    elif bytes(data[:6]) == _NPY:
        image = _channels_last(_npy(data, where), where, channels)
    elif bytes(data[:4]) == _ZIP:
        image = _channels_last(_npz(data, where), where, channels)
    elif bytes(data[128:132]) == b"DICM":
        image = _dicom(data, where)
    else:
        image = _picture(data, where)
    if image.dtype == bool:
        image = image.astype(np.uint8) * np.uint8(255)
    if image.shape[2] != channels:
        raise OtherChannels(where, f"{image.shape[2]} channels, and data.channels is {channels}", image.shape[2])
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise BrokenImage(where, "some of its values are no finite numbers")
    return image


def _banded(data: bytes | memoryview, where: str) -> np.ndarray:
    """A file for each band; those of a coarser grid are brought to the finest one, linearly."""
    found = []
    try:
        parts = list(bands.unpacked(data))
    except (struct.error, UnicodeDecodeError):
        raise BrokenImage(where, "not decodable") from None
    for name, part in parts:
        if part is None or bands.is_packed(part):
            raise BrokenImage(where, f"its band {name} is missing")
        found.append(native(part, f"{where}, band {name}", 1))
    kinds = {each.dtype for each in found}
    height, width = max(each.shape[0] for each in found), max(each.shape[1] for each in found)
    check_size((width, height), where, len(found) * max(kind.itemsize for kind in kinds))
    kind = np.result_type(*kinds)
    grids = [each if each.shape[:2] == (height, width) else _finer(each, (width, height)) for each in found]
    return np.concatenate([each.astype(kind, copy=False) for each in grids], 2)


def _finer(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.dtype in (np.uint8, np.uint16, np.float32, np.float64):
        return resized(image, size, cv2.INTER_LINEAR)
    scaled = resized(image.astype(np.float64), size, cv2.INTER_LINEAR)
    return np.rint(scaled).astype(image.dtype) if image.dtype.kind in "iu" else scaled.astype(image.dtype)


def _tiff(data: bytes | memoryview, where: str, channels: int) -> np.ndarray:
    """The first page, or the channels of all pages one after the other where only they are as many as asked for."""
    pages = tiff.pages_of(data, where)
    own = tiff.channels_of(pages[0])
    if not tiff.plain(pages[0]):  # a palette, JPEG or bits: what everybody reads
        if set(tiff._bits(pages[0])) & set(range(9, 16)):
            raise BrokenImage(where, f"numbers of {max(tiff._bits(pages[0]))} bits, which share bytes; save it in 16")
        return values_of(data, where)[:, :, : 1 if own == 1 and pages[0].get(262) != 3 else 3]
    if own == channels or len(pages) == 1:
        return tiff.page(data, pages[0], where)
    total = own * len(pages)
    if total != channels:
        raise OtherChannels(where, f"{len(pages)} pages of {own}, {total} channels, and data.channels is {channels}", total)
    first = tiff.page(data, pages[0], where)
    check_size((first.shape[1], first.shape[0]), where, total * first.dtype.itemsize)
    try:
        return np.concatenate([first, *(tiff.page(data, each, where) for each in pages[1:])], 2)
    except ValueError:  # pages that are turned differently
        raise BrokenImage(where, "its pages are shown in different sizes") from None


def _picture(data: bytes | memoryview, where: str) -> np.ndarray:
    """What OpenCV and Pillow read: grey, RGB or with alpha as the last channel."""
    if is_jpeg(data):
        return values_of(data, where)[:, :, : 1 if jpeg_channels(data) == 1 else 3]
    image = values_of(data, where)  # whose size it has checked
    png = bytes(data[:4]) == b"\x89PNG" and len(data) > 25
    channels = _PNG.get(data[25], 3) if png else 0
    whole = None if channels in (1, 3) else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if whole is None:  # Pillow's
        return image[:, :, :1] if channels == 1 else image
    if whole.ndim == 2:
        return image[:, :, :1]
    if whole.shape[2] < 4:
        return image
    return whole[:, :, [2, 3]] if channels == 2 else whole[:, :, [2, 1, 0, 3]]


# ---------------------------------------------------------------- arrays


def _channels_last(array: np.ndarray, where: str, channels: int) -> np.ndarray:
    """(H, W, C) of (H, W), (H, W, C) or, where only that has C channels, (C, H, W)."""
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim != 3:
        raise BrokenImage(where, f"an array {array.shape}; an image is (H, W), (H, W, C) or (C, H, W)")
    if array.shape[2] != channels and array.shape[0] == channels:
        return np.ascontiguousarray(np.moveaxis(array, 0, 2))
    if array.shape[2] != channels:
        count = min(array.shape[0], array.shape[2])
        raise OtherChannels(where, f"an array {array.shape}, and data.channels is {channels}", count)
    return array


def _npy(data: bytes | memoryview, where: str) -> np.ndarray:
    """The array of a .npy file, in native byte order. Raises BrokenImage."""
    stream = io.BytesIO(bytes(data[:16_384]))  # whose headers are far shorter
    try:
        read = (
            np.lib.format.read_array_header_1_0
            if np.lib.format.read_magic(stream)[0] == 1
            else np.lib.format.read_array_header_2_0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that Python 2 wrote, which are read all the same
            shape, fortran, kind = read(stream)
        numbers = kind.kind in "buif" and kind.subdtype is None and kind.itemsize <= 8 and all(side > 0 for side in shape)
    except (
        ValueError,
        TypeError,
        SyntaxError,
        KeyError,
        EOFError,
        MemoryError,
        RecursionError,
        OverflowError,
        struct.error,
        tokenize.TokenError,
    ):
        raise BrokenImage(where, "not decodable (its header is damaged)") from None
    if not numbers:
        raise BrokenImage(where, f"an array of {kind} {shape}, not of numbers")
    count, start = math.prod(shape), stream.tell()
    if count * kind.itemsize > MOST_BYTES or start + count * kind.itemsize > len(data):
        raise BrokenImage(where, f"an array {shape} of {kind} is claimed, more than the file holds or is decoded")
    values = np.frombuffer(data, kind, count, start).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(values, kind.newbyteorder("="))


def _npz(data: bytes | memoryview, where: str) -> np.ndarray:
    """The one array of a .npz file. Raises BrokenImage."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [each for each in archive.infolist() if each.filename.endswith(".npy")]
            if len(names) != 1:
                raise BrokenImage(where, f"{len(names)} arrays; an image is one")
            if names[0].file_size > MOST_BYTES:
                raise BrokenImage(where, f"{names[0].file_size:,} bytes are claimed, more than are decoded")
            with archive.open(names[0]) as file:
                found = file.read(names[0].file_size)
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
        KeyError,
        struct.error,
        IndexError,
    ):
        raise BrokenImage(where, "not decodable") from None
    if found[:6] != _NPY:
        raise BrokenImage(where, "not decodable")
    return _npy(found, where)


# ---------------------------------------------------------------- DICOM


def _dicom(data: bytes | memoryview, where: str) -> np.ndarray:
    """(H, W, C) of a DICOM file of one frame: rescaled as it says, white where it says white. Raises BrokenImage, UserError without pydicom."""
    try:
        import pydicom
    except ImportError:
        raise UserError(f'data.channels: {where} is DICOM, for which pydicom is needed: pip install "contray[dicom]"') from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of single files
        try:
            found = pydicom.dcmread(io.BytesIO(data))
            frames, channels = int(found.get("NumberOfFrames", 1) or 1), int(found.get("SamplesPerPixel", 1))
            check_size((int(found.Columns), int(found.Rows)), where, channels * int(found.BitsAllocated) // 8)
            if frames > 1:
                raise BrokenImage(where, f"{frames} frames; an image is one: save each as a file of its own")
            values = found.pixel_array
            kind = str(found.get("PhotometricInterpretation", ""))
            if kind.startswith("YBR"):
                from pydicom.pixels import convert_color_space

                values = convert_color_space(values, kind, "RGB")
            if kind == "MONOCHROME1":  # the lowest value is white
                signed, bits = int(found.PixelRepresentation), int(found.BitsStored)
                values = (-1 if signed else 2**bits - 1) - values.astype(np.int64)
                values = values.astype(np.int32 if signed or bits > 16 else np.uint16 if bits > 8 else np.uint8)
            slope, intercept = float(found.get("RescaleSlope", 1) or 1), float(found.get("RescaleIntercept", 0) or 0)
        except BrokenImage:
            raise
        except Exception as error:  # of pydicom's many; a plug-in that lacks says so
            raise BrokenImage(where, f"not decodable ({' '.join(str(error).split())[:200]})") from None
    if (slope, intercept) != (1.0, 0.0):
        scaled = values.astype(np.float64) * slope + intercept
        whole = slope.is_integer() and intercept.is_integer()
        values = scaled.astype(np.int32) if whole and np.abs(scaled).max() < 2**31 else scaled.astype(np.float32)
    return values[:, :, None] if values.ndim == 2 else values
