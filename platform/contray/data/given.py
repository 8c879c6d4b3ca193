"""Images as people hand them over, one by one or many: files, bytes, PIL images, arrays, tensors. What can mean two things is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .form import RGB, Form
from .pixels import BrokenImage, Depth

FORMS = "a path, bytes of a file, a PIL image, an array (H, W, 3) or (H, W), a tensor (C, H, W), or several of them"
_NAMES = (str, Path, bytes, bytearray, memoryview)


def images_of(given: Any, shorter_side: int = 0, form: Form = RGB) -> Iterator[np.ndarray | Mapping[str, Any]]:
    """Each image as (H, W, 3) uint8; mappings of columns as they are. One image gives one.

    given: FORMS; arrays are (H, W, 3), (H, W, 1), (H, W), (N, H, W, 3), (N, H, W, 1) or (N, H, W), tensors (C, H, W), (N, C, H, W) or (H, W) with
    C 1 or 3; both of uint8, or of floats in [0, 1], which are multiplied by 255. shorter_side: px to which files are reduced as they are read,
    0: not. form: with channels, images are (H, W, channels), arrays and tensors have as many in place of 3, and integers of more than 8 bits,
    which become fractions of its range, are taken too. Raises UserError for anything else, and names it.
    """
    if isinstance(given, Mapping):
        yield given
    elif isinstance(given, _NAMES) or _is_pillow(given):
        yield image_of(given, shorter_side, form)
    elif _is_tensor(given):
        yield from _split(_channels_last(given, form), given, form)
    elif isinstance(given, np.ndarray) and given.dtype != object:
        yield from _split(given, given, form)
    elif isinstance(given, Iterable):
        for each in given:
            yield each if isinstance(each, Mapping) else image_of(each, shorter_side, form)
    else:
        raise UserError(f"images: got {type(given).__name__}; give {FORMS}")


def image_of(given: Any, shorter_side: int = 0, form: Form = RGB) -> np.ndarray:
    """(H, W, 3) uint8, or as `form` has it, of one image in any of FORMS."""
    if isinstance(given, (str, Path)):
        return _read(Path(given), shorter_side, form)
    if isinstance(given, (bytes, bytearray, memoryview)):
        return _decoded(bytes(given), "the bytes", shorter_side, form)
    if _is_pillow(given):
        if form.channels:
            array = np.asarray(given)
            return next(_split(array[:, :, None] if array.ndim == 2 else array, given, form))
        return _of_pillow(given, form)
    if _is_tensor(given) or (isinstance(given, np.ndarray) and given.dtype != object):
        found = list(_split(_channels_last(given, form) if _is_tensor(given) else given, given, form))
        if len(found) == 1:
            return found[0]
        raise UserError(
            f"images: an array {tuple(given.shape)} among others is {len(found)} images; give each by itself, or one array of all"
        )
    raise UserError(f"images: got {type(given).__name__} as an image; give {FORMS}")


def _read(path: Path, shorter_side: int, form: Form) -> np.ndarray:
    if path.is_dir():
        raise UserError(
            f"images: {path} is a folder; contray.embed(folder, ...) takes one, or give a list of files: sorted(Path({str(path)!r}).glob('*'))"
        )
    try:
        return _decoded(path.read_bytes(), str(path), shorter_side, form)
    except OSError as error:
        raise UserError(f"images: {path} cannot be read ({error.strerror or error})") from None


def _decoded(data: bytes, where: str, shorter_side: int, form: Form) -> np.ndarray:
    try:
        return form.decode(data, where, (lambda: form.given) if form.channels or form.range else None, shorter_side)
    except BrokenImage as broken:
        raise UserError(f"images: {broken}") from None


def _of_pillow(image: Any, form: Form) -> np.ndarray:
    """Turned as its EXIF says and without alpha, as a file of it is read; of more than 8 bits: by the set's range, else by its own."""
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode in ("I", "F") or turned.mode.startswith("I;"):
        values = np.asarray(turned)
        return np.repeat((form.given or Depth.of([values]))(values)[..., None], 3, 2)
    return np.array(turned.convert("RGB"))


def _channels_last(tensor: Any, form: Form) -> np.ndarray:
    """(N, C, H, W), (C, H, W) or (H, W) -> the same with the channels at the end."""
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if form.channels:
        return np.moveaxis(array, -3, -1) if array.ndim in (3, 4) else array
    if array.ndim in (3, 4) and array.shape[-3] not in (1, 3):
        raise UserError(f"images: got a tensor {tuple(array.shape)}; tensors are (C, H, W) or (N, C, H, W) with C 1 or 3")
    return np.moveaxis(array, -3, -1) if array.ndim in (3, 4) else array


def _split(array: np.ndarray, given: Any, form: Form) -> Iterator[np.ndarray]:
    """The images (H, W, 3) uint8 of (H, W), (H, W, C), (N, H, W) or (N, H, W, C), C 1 or 3; those of `form` of (H, W, channels), or N of them."""
    if form.channels:
        array = array[..., None] if form.channels == 1 and (array.ndim == 2 or array.shape[-1] != 1) else array
        many = form.channels == 1 and np.ndim(given) == 3 and given.shape[-1] in (2, 3, 4)  # channels, and no narrow images
        if many or array.ndim not in (3, 4) or array.shape[-1] != form.channels or 0 in array.shape:
            wanted = f"arrays (H, W, {form.channels}) or tensors ({form.channels}, H, W), or N of them"
            raise UserError(f"images: got {_called(given)} {np.shape(given)}; this encoder takes {wanted}")
        yield from (_formed(each, given, form) for each in array.reshape(-1, *array.shape[-3:]))
        return
    coloured = array.ndim >= 3 and array.shape[-1] in (1, 3)
    if array.ndim - coloured not in (2, 3) or 0 in array.shape[-2 - coloured :]:
        alpha = "; without its alpha channel: image[..., :3]" if array.ndim in (3, 4) and array.shape[-1] == 4 else ""
        raise UserError(f"images: got {_called(given)} {tuple(given.shape)}; give (H, W, 3), (H, W), or N of them{alpha}")
    if array.ndim - coloured == 3 and not coloured and array.shape[-1] in (2, 4):
        raise UserError(
            f"images: got {_called(given)} {tuple(given.shape)}, of {array.shape[-1]} channels; give 1 or 3: image[..., :3] drops an alpha channel"
        )
    pixels = _bytes(array, given)
    pixels = pixels if coloured else pixels[..., None]
    yield from (np.repeat(each, 3, 2) if each.shape[2] == 1 else each for each in pixels.reshape(-1, *pixels.shape[-3:]))


def _formed(image: np.ndarray, given: Any, form: Form) -> np.ndarray:
    """uint8 as it is, floats in [0, 1] as float32, other integers as fractions of the range."""
    if image.dtype == np.uint8 and form.given is None:
        return image
    if (image.dtype.kind == "u" and (image.dtype == np.uint8 or form.given)) or (image.dtype.kind == "i" and form.given):
        return (form.given or Depth(0, 255)).fraction(image)
    if image.dtype.kind != "f" or not 0 <= float(image.min()) <= float(image.max()) <= 1:
        low, high = form.range or (0.0, 255.0)
        raise UserError(
            f"images: got {_called(given)} of {image.dtype} from {image.min():g} to {image.max():g}; give integers as the files have them, or floats "
            f"in [0, 1] of this encoder's range: (images - {low:g}) / {high - low:g}, clipped"
        )
    return image.astype(np.float32)


def _bytes(array: np.ndarray, given: Any) -> np.ndarray:
    """uint8 of uint8 or of floats in [0, 1]."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise UserError(
            f"images: got {_called(given)} of {array.dtype}; give uint8 of 0 to 255 (images.astype('uint8')), or floats in [0, 1]"
        )
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"images: got floats from {low:.4g} to {high:.4g}; give floats in [0, 1], not normalised, or uint8 of 0 to 255 (images.astype('uint8'))"
        )
    return np.rint(array * 255).astype(np.uint8)


def _called(given: Any) -> str:
    return "an array" if isinstance(given, np.ndarray) else "a tensor"


def _is_pillow(given: Any) -> bool:
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(given).__mro__)


def _is_tensor(given: Any) -> bool:
    return any(kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(given).__mro__)
