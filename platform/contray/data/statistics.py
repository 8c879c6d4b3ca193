"""Mean and deviation of a training set's pixels, for what inputs are normalised by."""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from ..methods._base import View, evaluation_view
from .batches import EvalImages
from .draws import generator
from .splits import Split

MEASURED = 2048  # images
_DIGITS = 6


def moments(split: Split, view: View, most: int = MEASURED) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """(means, deviations, words) of each channel in [0, 1], as evaluation shows the images of this view: centre-cropped, in its colour space.

    Over up to `most` images that are drawn by the set's size alone, each counting alike; of 6 digits. A channel that is the same everywhere has
    the deviation 1. Raises DataError where no image can be read.
    """
    drawn = generator(0, "moments").permutation(len(split))[:most]
    images, count = EvalImages(split, {"image": evaluation_view(view)}, np.sort(drawn), 32), 0
    first = second = np.zeros(0)
    for batch in images:
        pixels = batch["views"]["image"].numpy()
        for image in pixels.reshape(len(pixels), -1, pixels.shape[-1]):
            values = image.astype(np.float64) / (255 if image.dtype == np.uint8 else 1)
            mean, square = values.mean(0), np.square(values).mean(0)
            first, second = (mean, square) if not count else (first + mean, second + square)
            count += 1
    if not count:
        raise DataError(f"data.source: none of {len(drawn)} training images can be read")
    means = first / count
    deviations = np.sqrt(np.maximum(second / count - means**2, 0))
    flat = np.flatnonzero(deviations < 1e-6).tolist()
    deviations[flat] = 1.0
    words = f"mean and deviation of {count:,} training images"
    words += (
        f"; {'channels' if len(flat) > 1 else 'channel'} {', '.join(str(i + 1) for i in flat)} the same everywhere"
        if flat
        else ""
    )
    return tuple(map(_rounded, means)), tuple(min(_rounded(x), 1.0) for x in deviations), words


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
