"""Images of any channels as RGB that one can look at: three of their channels, stretched alike for the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..config import RunConfig
from ..data import Split, moments
from ..errors import UserError

_WIDE = 2.0  # deviations on either side of the mean from black to white
_LOOKED = 64  # images whose mean and deviation tell, where a run has not measured them


@dataclass(frozen=True)
class Look:
    """Maps (..., C) to uint8 (..., 3). chosen: places of the channels that are red, green and blue; low, high: (3,), what is black and white.

    Without channels of their own images are RGB already.
    """

    chosen: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @classmethod
    def of(cls, config: RunConfig, split: Split, channels: Sequence[int] = ()) -> Look:
        """channels: three numbers, or one for grey, counted from 1; by default the first three, of two the first twice. Raises UserError.

        Two deviations about the mean of a channel, of a run's or of some images, lie between black and white.
        """
        count = config.data.channels
        if not count:
            if channels:
                raise UserError("--channels: these images are RGB; channels are chosen of images with data.channels")
            return cls()
        chosen = list(channels) or ([1, 2, 3] if count > 2 else [1] * (3 - count) + list(range(1, count + 1)))
        chosen = chosen * 3 if len(chosen) == 1 else chosen
        if len(chosen) != 3 or not all(1 <= each <= count for each in chosen):
            raise UserError(f"--channels: got {' '.join(map(str, channels))}; give three of 1 to {count}, or one")
        mean, std = config.augment.mean, config.augment.std
        if not (mean and std):
            view = next(view for view in config.views.values() if view.kind in ("image", "patches"))
            measured = moments(split, view, _LOOKED)
            mean, std = mean or measured[0], std or measured[1]
        means, stds = (np.broadcast_to(values, count)[np.array(chosen) - 1] for values in (mean, std))
        low, high = np.maximum(means - _WIDE * stds, 0), np.minimum(means + _WIDE * stds, 1)
        return cls(tuple(each - 1 for each in chosen), tuple(low.tolist()), tuple(high.tolist()))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """image: (..., C) uint8, or floats in [0, 1]."""
        if not self.chosen:
            return image
        values = image[..., list(self.chosen)].astype(np.float64) / (255 if image.dtype == np.uint8 else 1)
        low, high = np.array(self.low), np.array(self.high)
        return np.rint(np.clip((values - low) / np.maximum(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
