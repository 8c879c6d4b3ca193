"""The photometric policy of a view on images of any channels, as data.channels has them: float32 in [0, 1].

Brightness, contrast, blur, solarisation, cutout, noise and rotation are what they are on RGB, for all channels alike. What is a matter of colour is
taken for what other channels can have of it: grey is the mean of the channels in all of them; saturation and hue are left out, also of RandAugment,
and so is its equalisation, which is of 8 bits. Strengths and probabilities are those of policy.py.
"""

from __future__ import annotations

from collections.abc import Callable

import albumentations as A
import cv2
import numpy as np

from ..methods._base import View
from .draws import Draws
from .policy import Elastic, Image, Shear, Step, bound, ordered
from .randaugment import TimmRandAugment

Operation = Callable[[Image], Image]


def steps(view: View, strength: float, draws: Draws) -> list[Step]:
    """As policy.steps: (probability, operation on float32 (H, W, C)), in the order of View's fields."""
    if strength == 0:
        return []

    def chance(p: float) -> float:
        return min(1.0, p * strength)

    angle, side = min(180.0, view.rotation * strength), max(1, (view.grid[1] if view.per_patch else view.size) // 2)
    blur = (view.blur_sigma[0], max(view.blur_sigma[0], view.blur_sigma[1] * strength))
    count, magnitude = view.randaugment
    magnitude = min(10.0, magnitude * strength)
    theirs = view.randaugment_as == "torchvision"
    operation = _randaugment(magnitude, draws) if theirs else TimmRandAugment(magnitude, chance(0.5), draws)
    hole = {"hole_height_range": (side, side), "hole_width_range": (side, side), "fill": 0.5}
    found: list[tuple[str, Step]] = [
        ("rotation", (float(angle > 0), _of(A.Rotate(limit=(-angle, angle)), draws))),
        ("shear", (chance(view.shear), Shear(0.3 * strength, draws))),
        ("elastic", (chance(view.elastic), Elastic(0.03 * strength, draws))),
        ("jitter", (chance(view.jitter_p), _jitter(view.jitter[0] * strength, view.jitter[1] * strength, draws))),
        ("gray", (chance(view.gray), gray)),
        ("blur", (chance(view.blur), _of(A.GaussianBlur(blur_limit=0, sigma_limit=blur), draws))),
        *[("randaugment", (chance(1.0) if theirs else 1.0, operation))] * count,
        ("solarize", (chance(view.solarize), lambda image: solarized(image, 0.5))),
        ("cutout", (chance(view.cutout), _of(A.CoarseDropout(num_holes_range=(1, 1), **hole), draws))),
        ("noise", (chance(view.noise), _of(A.GaussNoise(std_range=(0.1 * strength, 0.1 * strength)), draws))),
    ]
    return [step for _, step in ordered(found, view.gray_order) if step[0] > 0]


def gray(image: Image) -> Image:
    """Of uint8 or float32 (H, W, C): the mean of the channels, in all of them."""
    mean = image.mean(2, dtype=np.float32, keepdims=True)
    return np.repeat((np.rint(mean) if image.dtype == np.uint8 else mean).astype(image.dtype), image.shape[2], 2)


def solarized(image: Image, threshold: float) -> Image:
    return np.where(image >= np.float32(threshold), 1 - image, image)


def brighter(image: Image, factor: float) -> Image:
    return np.clip(image * np.float32(factor), 0, 1)


def contrasted(image: Image, factor: float) -> Image:
    """Away from the mean of all channels, or towards it, as torchvision does from the mean of the grey image."""
    mean = image.mean(dtype=np.float32)
    return np.clip((image - mean) * np.float32(factor) + mean, 0, 1)


def sobel(image: Image) -> Image:
    """Of uint8 or float32 (H, W, C): the gradient's magnitude of the channels' mean in all of them, a quarter of the 3x3 sums."""
    whole = image.dtype == np.uint8
    mean = image.mean(2, dtype=np.float32)
    across, down = cv2.Sobel(mean, cv2.CV_32F, 1, 0), cv2.Sobel(mean, cv2.CV_32F, 0, 1)
    size = np.minimum(np.sqrt(across * across + down * down) * np.float32(0.25), 255 if whole else 1)
    return np.repeat((np.rint(size).astype(np.uint8) if whole else size)[:, :, None], image.shape[2], 2)


def _jitter(brightness: float, contrast: float, draws: Draws) -> Operation:
    def run(image: Image) -> Image:
        operations = [(brighter, brightness), (contrasted, contrast)]
        factors = [draws.between(max(0.0, 1 - value), 1 + value) for _, value in operations]
        order = (0, 1) if draws.random() < 0.5 else (1, 0)
        for i in order:
            image = operations[i][0](image, factors[i])
        return image

    return run


def _of(transform: A.BasicTransform, draws: Draws) -> Operation:
    """An operation that albumentations has for floats of any channels; OpenCV drops the axis of one channel."""
    operation = bound(transform, draws)
    return lambda image: np.clip(operation(image), 0, 1).reshape(image.shape)


def _randaugment(magnitude: float, draws: Draws) -> Operation:
    """RandAugment's operations as policy.py has them, of which those of colour and the equalisation do nothing."""
    m = magnitude / 10
    bits = max(4, 8 - round(4 * m))

    def same(image: Image) -> Image:
        return image

    def stretched(image: Image) -> Image:
        low, high = image.min((0, 1)), image.max((0, 1))
        return np.where(high > low, (image - low) / np.where(high > low, high - low, 1), image).astype(np.float32)

    def posterized(image: Image) -> Image:
        return np.floor(image * np.float32(255 / 2 ** (8 - bits))) * np.float32(2 ** (8 - bits) / 255) if bits < 8 else image

    def signed(value: float, made: Callable[[float], Operation]) -> list[Operation]:
        return [made(value), made(-value)]

    def warped(**how: dict[str, tuple[float, float]]) -> Operation:
        return _of(A.Affine(**how), draws)  # pyright: ignore[reportArgumentType]

    shear, shift = float(np.rad2deg(np.arctan(0.3))) * m, 0.45 * m
    operations: list[list[Operation]] = [
        [same], [stretched], [same],
        signed(30.0 * m, lambda value: _of(A.Rotate(limit=(value, value)), draws)),
        [lambda image: solarized(image, 1 - m)], [posterized], [same],
        signed(0.9 * m, lambda value: lambda image: contrasted(image, 1 + value)),
        signed(0.9 * m, lambda value: lambda image: brighter(image, 1 + value)),
        [_of(A.Sharpen(alpha=(0.9 * m, 0.9 * m), lightness=(1.0, 1.0)), draws)],
        signed(shear, lambda value: warped(shear={"x": (value, value), "y": (0.0, 0.0)})),
        signed(shear, lambda value: warped(shear={"x": (0.0, 0.0), "y": (value, value)})),
        signed(shift, lambda value: warped(translate_percent={"x": (value, value), "y": (0.0, 0.0)})),
        signed(shift, lambda value: warped(translate_percent={"x": (0.0, 0.0), "y": (value, value)})),
    ]  # fmt: skip

    def run(image: Image) -> Image:
        signs = operations[draws.below(len(operations))]
        return signs[draws.below(len(signs))](image)

    return run
