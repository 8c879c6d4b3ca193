"""From a picture to the views of a method: crop and flip, then the photometric policy, then colour space and patches (or patches, then all of that).

Every pixel is a pure function of (seed, epoch, sample id, view name and crop number): of no call order, process or world size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import ConfigError
from ..methods._base import View
from . import byte_pairs
from .draws import Draws, stream
from .pixels import antialiased, resized

if TYPE_CHECKING:
    from .policy import Image, Step

Fetch = Callable[
    [str, np.random.Generator], Any
]  # (column, rng) -> uint8 image, float32 array or text; rng feeds sources that draw their pictures
Box = tuple[float, float, float, float]  # top, left, height, width as fractions of the image

_THIN = 4  # longer side over the shorter one, above which a picture is cut before it is resized
_INTERPOLATION = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
_ANTIALIASED = {"antialiased": "bilinear", "antialiased_cubic": "bicubic"}


@dataclass(frozen=True)
class _Stage:
    """One key of `Batch.views`, and its random streams: `place` for picture, crop and flip, `colour` for the policy, `shift` of patches."""

    name: str
    view: View
    place: int
    colour: int
    shift: int
    shared: bool
    policy: list[Step]
    tokens: Callable[[str, int], np.ndarray]


class Pipeline:
    """Draws the views of a sample: `pipeline(fetch, (seed, epoch, sample))` -> {name: uint8 array} with the names of View.names.

    An image is (size, size, 3), patches are (P, h, w, 3) uint8; arrays (channels, size) float32; tokens (size,) int64.
    With `channels`, as data.channels, images have as many in place of 3, and are uint8 or float32 in [0, 1] as they are fetched.
    Views of one geometry group show the same picture, relative crop and flip. `strength` scales the policy as
    contray.data.policy says, and photometry.py of other images than RGB. Not thread-safe: it owns its generator.
    """

    def __init__(self, views: Mapping[str, View], strength: float, channels: int = 0) -> None:
        self._draws, self._channels = Draws(), channels
        self._stages: list[_Stage] = []
        check_shapes(views)
        for name, view in views.items():
            policy = _policy(view, strength, self._draws, channels)
            texts = byte_pairs.read(view.merges, f"views.{name}.merges") if view.merges else tokens
            for number, key in enumerate(view.names(name)):
                place = f"group {view.geometry} {number}" if view.geometry else f"place {name} {number}"
                colour = stream(f"colour {name} {number}")
                shift = stream(f"shift {name} {number}")
                self._stages.append(_Stage(key, view, stream(place), colour, shift, bool(view.geometry), policy, texts))

    def __call__(self, fetch: Fetch, key: tuple[int, int, int]) -> dict[str, np.ndarray]:
        draws = self._draws
        groups: dict[int, tuple[Box, bool]] = {}
        drawn: dict[str, np.ndarray] = {}
        for stage in self._stages:
            draws.move(*key, stage.place)
            value = fetch(stage.view.source, draws.generator)
            if stage.view.kind == "tokens":
                drawn[stage.name] = stage.tokens(value, stage.view.size)
                continue
            if stage.view.kind == "array":
                drawn[stage.name] = _window(value, stage.view, draws)
                continue
            image = as_native(value, self._channels, stage.view.source) if self._channels else as_rgb(value)
            geometry = groups.get(stage.place)
            if geometry is None:
                geometry = _geometry(draws, stage.view, *image.shape[:2])
                if stage.shared:
                    groups[stage.place] = geometry
            image = _crop(image, stage.view, *geometry)
            moves = None
            if stage.view.grid_shift or stage.view.grid_kept:
                draws.move(*key, stage.shift)
                moves = _moves(draws, stage.view)
            if stage.policy:
                draws.move(*key, stage.colour)
            drawn[stage.name] = self._finished(image, stage, moves)
        return drawn

    def _finished(self, image: Image, stage: _Stage, moves: Moves | None) -> np.ndarray:
        """What follows crop and flip: the policy, colour space and Sobel, patches."""
        view = stage.view
        if view.kind != "patches":
            return _converted(self._coloured(image, stage), view)
        if not view.per_patch:
            return _padded(_cut(_converted(self._coloured(image, stage), view), view, moves), view, moves)
        patches = [_converted(self._coloured(patch, stage), view) for patch in _cut(image, view, moves)]
        return _padded(np.stack(patches), view, moves)

    def _coloured(self, image: Image, stage: _Stage) -> Image:
        """The photometric policy."""
        if not stage.policy:
            return image
        whole = self._channels and image.dtype == np.uint8
        image = image.astype(np.float32) / np.float32(255) if whole else image
        for p, operation in stage.policy:
            if p >= 1 or self._draws.random() < p:
                image = operation(image)
        return np.rint(image * 255).astype(np.uint8) if whole else image


def _policy(view: View, strength: float, draws: Draws, channels: int) -> list[Step]:
    """A view's photometric policy. Its library takes a second to import, which who only encodes images can spare."""
    if not strength:
        return []
    from . import policy

    return (_photometry() if channels else policy).steps(view, strength, draws)


def _photometry() -> ModuleType:
    from . import photometry

    return photometry


PAD, END, VOCABULARY = 0, 257, 258  # tokens: 1 + byte


def tokens(text: str, size: int) -> np.ndarray:
    """(size,) int64: the text's UTF-8 bytes, as many as fit before the end token, then padding."""
    found = np.full(size, PAD, np.int64)
    encoded = np.frombuffer(text.encode()[: size - 1], np.uint8)
    found[: len(encoded)] = encoded.astype(np.int64) + 1
    found[len(encoded)] = END
    return found


def _window(value: np.ndarray, view: View, draws: Draws) -> np.ndarray:
    """(channels, size) of an array (T,) or (channels, T): a random window, the middle one for evaluation; short arrays end in zeros."""
    array = np.atleast_2d(np.asarray(value, np.float32))
    if array.shape[0] != view.channels:
        raise ConfigError(
            "views", f"column {view.source!r} has {array.shape[0]} channels, its view's `channels` is {view.channels}"
        )
    spare = array.shape[1] - view.size
    if spare <= 0:
        return np.pad(array, ((0, 0), (0, -spare)))
    start = spare // 2 if view.crop == (0.0, 0.0) else draws.below(spare + 1)
    return array[:, start : start + view.size]


def as_rgb(image: np.ndarray) -> Image:
    """(H, W, 3) of a grey (H, W) or (H, W, 1) image, an RGB image as it is."""
    if image.ndim == 3 and image.shape[2] == 3:
        return image
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def as_native(image: np.ndarray, channels: int, source: str) -> Image:
    """(H, W, channels) of an image of that form, or (H, W) of one channel. Raises ConfigError for others."""
    image = image[:, :, None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[2] != channels or image.dtype not in (np.uint8, np.float32):
        raise ConfigError(
            "data.channels",
            f"got {channels}, but an image of {source} is {image.dtype} {image.shape}, must be uint8 or float32 (H, W, {channels})",
        )
    return image


def check_shapes(views: Mapping[str, View]) -> None:
    """Refuse what no picture could satisfy: patches that leave the crop, groups whose members want different crops."""
    groups: dict[str, tuple[str, View]] = {}
    for name, view in views.items():
        rows, side, stride = view.grid
        if view.kind in ("image", "patches") and view.size < 2:
            raise ConfigError(
                f"views.{name}.size", f"got {view.size}, must be at least 2 px: an image of one pixel shows nothing"
            )
        if view.kind == "patches":
            if not (rows and side and stride):
                raise ConfigError(f"views.{name}.grid", f"patches need rows, side and stride above 0, got {view.grid}")
            if view.grid_kept > side:
                raise ConfigError(f"views.{name}.grid_kept", f"got {view.grid_kept}, must be at most the {side} px of a patch")
            need = (rows - 1) * stride + side + view.grid_shift
            if need > view.size:
                moved = f", moved by up to {view.grid_shift}," if view.grid_shift else ""
                raise ConfigError(
                    f"views.{name}.grid", f"{rows} rows of {side} px at stride {stride}{moved} need size {need}, got {view.size}"
                )
        if view.geometry:
            first, other = groups.setdefault(view.geometry, (name, view))
            if (view.crop, view.ratio, view.flip) != (other.crop, other.ratio, other.flip):
                raise ConfigError(
                    f"views.{name}.geometry", f"group {view.geometry!r} needs one crop, ratio and flip; {first} has others"
                )


def _geometry(draws: Draws, view: View, height: int, width: int) -> tuple[Box, bool]:
    """(crop, flipped). The crop as torchvision's: random area and log aspect ratio, ten tries, then the largest centre crop."""
    flipped = view.flip > 0 and draws.random() < view.flip
    if view.crop == (0.0, 0.0):
        return (0.0, 0.0, 1.0, 1.0), flipped
    low, high = math.log(view.ratio[0]), math.log(view.ratio[1])
    for _ in range(10):
        area = height * width * draws.between(*view.crop)
        ratio = math.exp(draws.between(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = draws.below(height - h + 1), draws.below(width - w + 1)
            break
    else:
        h, w = min(height, round(width / view.ratio[0])), min(width, round(height * view.ratio[1]))
        top, left = (height - h) // 2, (width - w) // 2
    return (top / height, left / width, h / height, w / width), flipped


def _crop(image: Image, view: View, box: Box, flipped: bool) -> Image:
    """The box of the image as a square of view.size px, or the centre crop where view.crop is (0, 0)."""
    if view.crop == (0.0, 0.0):
        image = _centre(image, view)
    else:
        height, width = image.shape[:2]
        top, left = round(box[0] * height), round(box[1] * width)
        bottom, right = top + max(1, round(box[2] * height)), left + max(1, round(box[3] * width))
        image = _resized(image[top:bottom, left:right], (view.size, view.size), view)
    return cv2.flip(image, 1).reshape(image.shape) if flipped else image


def _resized(image: Image, size: tuple[int, int], view: View) -> Image:
    """(h, w, C) of size (w, h) in the view's interpolation."""
    if view.interpolation in _ANTIALIASED:
        return antialiased(image, size, _ANTIALIASED[view.interpolation])
    return resized(image, size, _INTERPOLATION[view.interpolation])


def centred_from(size: int) -> int:
    """What the shorter side of an image becomes before its centre of `size` px is cut out, for evaluation."""
    return size if size <= 64 else round(size * 256 / 224)


def _centre(image: Image, view: View) -> Image:
    """Evaluation: the shorter side to size * 256/224 (to size itself up to 64 px, where pixels are scarce), then the centre.

    Antialiased, as the releases' test images are (torchvision's Resize), whatever their training crops; bicubic where these are cubic.
    """
    image = _middle(image)
    height, width = image.shape[:2]
    short = centred_from(view.size)
    scale = short / min(height, width)
    if scale != 1:
        size = (max(short, round(width * scale)), max(short, round(height * scale)))
        image = antialiased(image, size, "bicubic" if "cubic" in view.interpolation else "bilinear")
    top, left = (image.shape[0] - view.size) // 2, (image.shape[1] - view.size) // 2
    return image[top : top + view.size, left : left + view.size]


def _middle(image: Image) -> Image:
    """The middle of a thin picture, four times as long as it is wide: resizing all of it would take any amount of memory, for a square."""
    height, width = image.shape[:2]
    most = _THIN * min(height, width)
    top, left = max(0, height - most) // 2, max(0, width - most) // 2
    return image[top : top + most, left : left + most]


def _converted(image: Image, view: View) -> Image:
    """Sobel and colour space: what the method is given as such, at any strength."""
    if view.sobel:
        image = _sobel(image)
    if view.space == "gray":
        return as_rgb(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) if _is_rgb(image) else _photometry().gray(image)
    if view.space == "lab":
        return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    if view.space == "ycbcr":
        return cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[:, :, [0, 2, 1]]  # OpenCV's order is Y, Cr, Cb
    return image


@dataclass(frozen=True)
class Moves:
    """Of each of P patches (down, right): how far it is moved, and where in it the square that is kept begins."""

    shifts: list[tuple[int, int]]
    kept: list[tuple[int, int]]


def _moves(draws: Draws, view: View) -> Moves:
    rows, side, _ = view.grid

    def pairs(most: int) -> list[tuple[int, int]]:
        return [(draws.below(most + 1), draws.below(most + 1)) for _ in range(rows**2)]

    return Moves(
        pairs(view.grid_shift) if view.grid_shift else [(0, 0)] * rows**2, pairs(side - view.grid_kept) if view.grid_kept else []
    )


def _cut(image: Image, view: View, moves: Moves | None) -> np.ndarray:
    """(P, h, w, C): the patches of the grid, row by row."""
    rows, side, stride = view.grid
    corners = [(y * stride, x * stride) for y in range(rows) for x in range(rows)]
    if moves:
        corners = [(y + down, x + right) for (y, x), (down, right) in zip(corners, moves.shifts, strict=True)]
    return np.stack([image[top : top + side, left : left + side] for top, left in corners])


def _padded(patches: np.ndarray, view: View, moves: Moves | None) -> np.ndarray:
    """Of each patch the square that is kept, in the middle of black (van den Oord et al. 2018, §3.2)."""
    if not moves or not moves.kept:
        return patches
    side, found = view.grid_kept, np.zeros_like(patches)
    edge = (view.grid[1] - side) // 2
    for patch, kept, (top, left) in zip(found, patches, moves.kept, strict=True):
        patch[edge : edge + side, edge : edge + side] = kept[top : top + side, left : left + side]
    return found


def _is_rgb(image: Image) -> bool:
    return image.dtype == np.uint8 and image.shape[2] == 3


def _sobel(image: Image) -> Image:
    """Gradient magnitude of the grey image, a quarter of the 3x3 Sobel sums, so that a full step edge is white."""
    if not _is_rgb(image):
        return _photometry().sobel(image)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    across, down = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    # cv2.magnitude's last digit goes with the memory's alignment
    size = np.sqrt(across * across + down * down) * np.float32(0.25)
    return as_rgb(np.minimum(np.rint(size), 255).astype(np.uint8))
