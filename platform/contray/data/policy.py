"""The photometric policy of a view as albumentations transforms, scaled by `augment.strength`.

The rule of the strength s (InfoMin-style: 0 nothing, 1 as specified, 2 twice as far): every probability is multiplied by s, up
to 1; every magnitude is multiplied by s too: the rotation up to 180 degrees, the shearing, the elastic shifts, the jitter's ranges
(hue up to half the circle, factors not below 0), the largest blur (not below the smallest), the noise's deviation, RandAugment's
magnitude up to 10. RandAugment's operations happen with probability s, timm's with s / 2. Solarisation, cutout and grey have no magnitude.
"""

from __future__ import annotations

from collections.abc import Callable

import albumentations as A
import cv2
import numpy as np

from ..methods._base import View
from .draws import Draws
from .jitter import Jitter, jitter_ranges
from .randaugment import TimmRandAugment

cv2.setNumThreads(0)  # the loader's processes are the parallelism; cv2's pool does not survive a fork

Image = np.ndarray  # uint8 (H, W, 3), RGB
Step = tuple[float, Callable[[Image], Image]]  # (probability, operation)


def steps(view: View, strength: float, draws: Draws) -> list[Step]:
    """The operations of `view` at this strength in the order of View's fields; all draw from `draws`."""
    if strength == 0:
        return []

    def chance(p: float) -> float:
        return min(1.0, p * strength)

    angle = min(180.0, view.rotation * strength)
    blur = (view.blur_sigma[0], max(view.blur_sigma[0], view.blur_sigma[1] * strength))
    side = max(1, (view.grid[1] if view.per_patch else view.size) // 2)
    count, magnitude = view.randaugment
    magnitude = min(10.0, magnitude * strength)
    operation = (
        RandAugment(magnitude, draws) if view.randaugment_as == "torchvision" else TimmRandAugment(magnitude, chance(0.5), draws)
    )

    def of(transform: A.BasicTransform) -> Callable[[Image], Image]:
        return bound(transform, draws)

    jitter = of(_jitter(view, strength)) if view.jitter_as == "torchvision" else Jitter(view, strength, draws)
    found: list[tuple[str, Step]] = [
        ("rotation", (float(angle > 0), of(A.Rotate(limit=(-angle, angle))))),
        ("shear", (chance(view.shear), Shear(0.3 * strength, draws))),
        ("elastic", (chance(view.elastic), Elastic(0.03 * strength, draws))),
        ("jitter", (chance(view.jitter_p), jitter)),
        ("gray", (chance(view.gray), of(A.ToGray()))),
        ("blur", (chance(view.blur), of(A.GaussianBlur(blur_limit=0, sigma_limit=blur)))),
        *[("randaugment", (chance(1.0) if view.randaugment_as == "torchvision" else 1.0, operation))] * count,
        ("solarize", (chance(view.solarize), of(A.Solarize(threshold_range=(0.5, 0.5))))),
        ("cutout", (chance(view.cutout), of(_cutout(side)))),
        ("noise", (chance(view.noise), of(A.GaussNoise(std_range=(0.1 * strength, 0.1 * strength))))),
    ]
    return [step for _, step in ordered(found, view.gray_order) if step[0] > 0]


def ordered(found: list[tuple[str, Step]], gray_order: str) -> list[tuple[str, Step]]:
    """The named steps with the conversion to grey where View.gray_order has it."""
    if gray_order == "after_jitter":
        return found
    rest = [each for each in found if each[0] != "gray"]
    at = len(rest) if gray_order == "last" else [name for name, _ in rest].index("jitter")
    return [*rest[:at], *(each for each in found if each[0] == "gray"), *rest[at:]]


def bound(transform: A.BasicTransform, draws: Draws) -> Callable[[Image], Image]:
    """The transform as a function of the image that draws its parameters from `draws`.

    It calls the transform's own three parts in the order of its `__call__`, whose checks and bookkeeping of masks, boxes and
    replays cost as much as a 32 px image's pixels.
    """
    transform.set_random_state(draws.generator, draws)

    def run(image: Image) -> Image:
        data = {"image": image}
        params = transform.update_transform_params(transform.get_params(), data)
        params.update(transform.get_params_dependent_on_data(params, data))
        return transform.apply(image, **params)

    return run


def _jitter(view: View, strength: float) -> A.ColorJitter:
    """torchvision's ColorJitter: factors in [1 - s, 1 + s], the hue as a fraction of the circle, in a random order."""
    brightness, contrast, saturation, hue = jitter_ranges(view, strength)
    return A.ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)


def _cutout(side: int) -> A.CoarseDropout:
    return A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(side, side), hole_width_range=(side, side), fill=128)


class Shear:
    """Both axes sheared by up to `most` of the length, drawn for each; what lies beyond the edge is mirrored."""

    def __init__(self, most: float, draws: Draws) -> None:
        self.most, self.draws = most, draws

    def __call__(self, image: Image) -> Image:
        x, y = (self.draws.between(-self.most, self.most) for _ in range(2))
        down, across = (np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in image.shape[:2])
        return _moved(image, x * down[:, None] + 0 * across, y * across + 0 * down[:, None])


class Elastic:
    """Simard-like deformation: normal shifts at 4 x 4 places, of a standard deviation of `size` of the side, cubic between them."""

    def __init__(self, size: float, draws: Draws) -> None:
        self.size, self.draws = size, draws

    def __call__(self, image: Image) -> Image:
        height, width = image.shape[:2]
        shifts = self.draws.generator.standard_normal((2, 4, 4), np.float32) * np.float32(self.size * min(height, width))
        across, down = (cv2.resize(shift, (width, height), interpolation=cv2.INTER_CUBIC) for shift in shifts)
        return _moved(image, across, down)


def _moved(image: Image, across: np.ndarray, down: np.ndarray) -> Image:
    """Each pixel taken from so far to the right and below; mirrored at the edge."""
    y, x = (np.arange(n, dtype=np.float32) for n in image.shape[:2])
    x, y = (x + across).astype(np.float32), (y[:, None] + down).astype(np.float32)
    parts = [
        cv2.remap(image[:, :, at : at + 4], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        for at in range(0, image.shape[2], 4)
    ]
    return np.concatenate([part.reshape(*image.shape[:2], -1) for part in parts], 2)


class RandAugment:
    """One operation drawn out of RandAugment's 14 (Cubuk et al. 2019, arXiv 1909.13719), at magnitude 0 to 10, of a random sign.

    Ranges at magnitude 10 as in torchvision: 30 degrees, shear 0.3, translation 0.45 of the side, colour factors 1 +- 0.9,
    4 bits, solarisation of everything. Sharpness only sharpens.
    """

    def __init__(self, magnitude: float, draws: Draws) -> None:
        m = magnitude / 10
        self.draws = draws
        signed = [(value * m, -value * m) for value in (30.0, np.rad2deg(np.arctan(0.3)), 0.45, 0.9)]
        rotate, shear, shift, colour = signed

        def jitter(brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> A.ColorJitter:
            bright, contr, satur = ((1 + value, 1 + value) for value in (brightness, contrast, saturation))
            return A.ColorJitter(brightness=bright, contrast=contr, saturation=satur, hue=(0.0, 0.0))

        variants: list[list[A.BasicTransform]] = [
            [A.NoOp()],
            [A.AutoContrast(method="pil")],
            [A.Equalize(mode="pil")],
            [A.Rotate(limit=(value, value)) for value in rotate],
            [A.Solarize(threshold_range=(1 - m, 1 - m))],
            [A.Posterize(num_bits=max(4, 8 - round(4 * m)))] if round(4 * m) else [A.NoOp()],
            [jitter(saturation=value) for value in colour],
            [jitter(contrast=value) for value in colour],
            [jitter(brightness=value) for value in colour],
            [A.Sharpen(alpha=(0.9 * m, 0.9 * m), lightness=(1.0, 1.0))],
            [A.Affine(shear={"x": (value, value), "y": (0, 0)}) for value in shear],
            [A.Affine(shear={"x": (0, 0), "y": (value, value)}) for value in shear],
            [A.Affine(translate_percent={"x": (value, value), "y": (0, 0)}) for value in shift],
            [A.Affine(translate_percent={"x": (0, 0), "y": (value, value)}) for value in shift],
        ]
        self.operations = [[bound(transform, draws) for transform in signs] for signs in variants]

    def __call__(self, image: Image) -> Image:
        signs = self.operations[self.draws.below(len(self.operations))]
        return signs[self.draws.below(len(signs))](image)
