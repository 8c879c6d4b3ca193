"""How far the colour jitter of a view goes, and TensorFlow's, which albumentations has not."""

from __future__ import annotations

import cv2
import numpy as np

from ..methods._base import View
from .draws import Draws

Image = np.ndarray  # uint8 (H, W, 3), RGB
_LEVELS = np.arange(256.0)


def jitter_ranges(view: View, strength: float) -> list[tuple[float, float]]:
    """(least, most) of brightness (a factor, or what is added), contrast, saturation and hue (of the circle)."""
    brightness, contrast, saturation, hue = (value * strength for value in view.jitter)
    found = [(max(0.0, 1 - value), 1 + value) for value in (brightness, contrast, saturation)]
    if view.jitter_as == "added":
        found[0] = (-brightness, brightness)
    hue = min(0.5, hue)
    return [*found, (-hue, hue)]


class Jitter:
    """Colour jitter of TensorFlow (google-research/simclr, `data_util.py`; deepmind-research, `byol/utils/augmentations.py`), in a random order.

    Contrast is about each channel's own mean, saturation and hue are HSV's. Values are cut off and rounded after each operation; the releases round
    after the last.
    """

    def __init__(self, view: View, strength: float, draws: Draws) -> None:
        self.draws, self.added = draws, view.jitter_as == "added"
        self.ranges = jitter_ranges(view, strength)

    def __call__(self, image: Image) -> Image:
        brightness, contrast, saturation, hue = (self.draws.between(low, high) for low, high in self.ranges)
        order = [0, 1, 2, 3]
        self.draws.generator.shuffle(order)
        for operation in order:
            if operation == 0:
                image = cv2.LUT(image, _whole(_LEVELS + 255 * brightness if self.added else _LEVELS * brightness))
            elif operation == 1:
                mean = np.array(cv2.mean(image)[:3])
                image = cv2.LUT(image, _whole((_LEVELS[:, None] - mean) * contrast + mean)[None])
            else:
                hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # the hue of 180
                if operation == 2:
                    hsv[..., 1] = cv2.LUT(hsv[..., 1], _whole(_LEVELS * saturation))
                else:
                    hsv[..., 0] = cv2.LUT(hsv[..., 0], ((_LEVELS + np.floor(180 * hue)) % 180).astype(np.uint8))
                image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return image


def _whole(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
