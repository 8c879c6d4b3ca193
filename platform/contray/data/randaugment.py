"""timm's first RandAugment, as InfoMin's release has it (HobbitLong/PyContrast, pycontrast/datasets/RandAugment.py: rand-n2-m10-mstd0.5).

Each operation happens with probability 0.5, at a magnitude with Gaussian noise; colour factors are 0.1 to 1.9 and only grow with the magnitude; nothing
is solarised at magnitude 10. The operations are PIL's, to one grey level but for edges of what is turned or moved.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .draws import Draws

Image = np.ndarray  # uint8 (H, W, C) or float32 (H, W, C) in [0, 1]

NOISE = 0.5  # standard deviation of the magnitude
FILL = (124, 116, 104)  # ImageNet's mean: what is beyond the image's edge
NAMES = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast", "Brightness", "Sharpness",
    "ShearX", "ShearY", "TranslateX", "TranslateY",
)  # fmt: skip
_SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # PIL's


class TimmRandAugment:
    """One operation out of the 15, applied with probability `chance`, at `magnitude` (0 to 10) and its noise, signs and interpolations drawn too."""

    def __init__(self, magnitude: float, chance: float, draws: Draws) -> None:
        self.magnitude, self.chance, self.draws = magnitude, chance, draws

    def __call__(self, image: Image) -> Image:
        draws = self.draws
        name = NAMES[draws.below(len(NAMES))]
        if draws.random() >= self.chance:
            return image
        level = min(1.0, max(0.0, draws.normalvariate(self.magnitude, NOISE) / 10))
        if name in _SIGNED and draws.random() < 0.5:
            level = -level
        return applied(name, image, level, draws.random() < 0.5 if name in _SIGNED else False)


def applied(name: str, image: Image, level: float, cubic: bool = False) -> Image:
    """The operation at a level of 0 to 1, of either sign where it turns or moves. Of images that are not RGB, colour and equalisation are left alone."""
    rgb = image.dtype == np.uint8 and image.shape[2] == 3
    factor = 0.1 + 1.8 * level
    if name == "Rotate":
        return _turned(image, np.deg2rad(30.0 * level), cubic)
    if name in _SIGNED:
        across = name.endswith("X")
        if name.startswith("Shear"):
            return _warped(image, (1, 0.3 * level, 0, 0, 1, 0) if across else (1, 0, 0, 0.3 * level, 1, 0), cubic)
        shift = 0.45 * level * image.shape[1 if across else 0]
        return _warped(image, (1, 0, shift, 0, 1, 0) if across else (1, 0, 0, 0, 1, shift), cubic)
    if name == "AutoContrast":
        return _stretched(image)
    if name == "Equalize":
        return np.dstack([_equalized(channel) for channel in cv2.split(image)]) if rgb else image
    if name == "Color":
        return _blended(np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2), image, factor) if rgb else image
    if name == "Sharpness":
        smooth = image.copy()
        smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, _SMOOTH).reshape(image.shape)[1:-1, 1:-1]  # PIL leaves the outermost pixels
        return _blended(smooth, image, factor)
    return _mapped(image, _curve(name, image, level, factor))


def _curve(name: str, image: Image, level: float, factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """What becomes of a value of 0 to 255, whatever its place."""
    if name == "Contrast":
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.dtype == np.uint8 and image.shape[2] == 3 else image
        mean = np.floor(float(grey.mean()) * (1 if grey.dtype == np.uint8 else 255) + 0.5)
        return lambda x: mean + factor * (x - mean)
    threshold, added, step = int(256 * level), int(110 * level), 2.0 ** (8 - int(4 * level))
    return {
        "Brightness": lambda x: factor * x,
        "Invert": lambda x: 255 - x,
        "Posterize": lambda x: np.floor(x / step) * step,
        "Solarize": lambda x: np.where(x < threshold, x, 255 - x),
        "SolarizeAdd": lambda x: np.where(x < 128, x + added, x),
    }[name]


def _mapped(image: Image, curve: Callable[[np.ndarray], np.ndarray]) -> Image:
    if image.dtype == np.uint8:
        table = np.clip(curve(np.arange(256.0)), 0, 255).astype(np.uint8)  # PIL cuts off what is behind the point
        return cv2.LUT(image, table).reshape(image.shape)
    return np.clip(curve(image * np.float32(255)) / 255, 0, 1).astype(np.float32)


def _blended(other: Image, image: Image, factor: float) -> Image:
    """From `other` (factor 0) over the image (1) and beyond."""
    if image.dtype == np.uint8:
        return cv2.addWeighted(image, factor, other, 1 - factor, 0).reshape(image.shape)
    return np.clip(other + np.float32(factor) * (image - other), 0, 1)


def _stretched(image: Image) -> Image:
    """Each channel over the whole range."""
    low, high = image.min((0, 1)).astype(np.float32), image.max((0, 1)).astype(np.float32)
    wide = high > low
    top = 255 if image.dtype == np.uint8 else 1
    scaled = np.clip((image - low) * np.where(wide, top / np.where(wide, high - low, 1), 1), 0, top)
    return np.where(wide, scaled, image).astype(image.dtype)


def _equalized(channel: np.ndarray) -> np.ndarray:
    """PIL's: so many pixels for each of the 255 steps."""
    counts = np.bincount(channel.ravel(), minlength=256)
    step = int(counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
    before = step // 2 + np.concatenate([[0], counts.cumsum()[:-1]])
    return cv2.LUT(channel, np.clip(before // step, 0, 255).astype(np.uint8)) if step else channel


def _turned(image: Image, angle: float, cubic: bool) -> Image:
    """Counter-clockwise about the middle."""
    height, width = image.shape[:2]
    cos, sin, x, y = np.cos(angle), np.sin(angle), width / 2, height / 2
    return _warped(image, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y), cubic)


def _warped(image: Image, matrix: tuple[float, ...], cubic: bool) -> Image:
    """PIL's Image.transform: the pixel at (x, y) is taken from (a x + b y + c, d x + e y + f); pixels' middles are at halves."""
    found = np.array(matrix, np.float64).reshape(2, 3)
    found[:, 2] += found[:, :2].sum(1) / 2 - 0.5
    rgb = image.dtype == np.uint8 and image.shape[2] == 3
    fill = FILL if rgb else (float(np.mean(FILL)) / (1 if image.dtype == np.uint8 else 255),) * 4
    how = (cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    parts = [
        cv2.warpAffine(
            image[:, :, at : at + 4], found, image.shape[1::-1], flags=how, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
        )
        for at in range(0, image.shape[2], 4)
    ]  # OpenCV fills four channels at most
    warped = np.concatenate([part.reshape(*image.shape[:2], -1) for part in parts], 2)
    return warped if image.dtype == np.uint8 else np.clip(warped, 0, 1)
