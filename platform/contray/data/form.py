"""What the images of a set become: RGB of 8 bits, or all channels that the files have, of 8 bits or more.

With data.channels, an image is (H, W, channels): uint8 where the set's images have 8 bits, else float32 in [0, 1] of the set's range, never the image's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..config.sections import DataConfig
from ..errors import ConfigError
from . import pixels
from .native import OtherChannels, native
from .pixels import BrokenImage, Depth, Pixels, decode, reduced


@dataclass(frozen=True)
class Form:
    """channels: data.channels, 0 for RGB of 8 bits; range: data.range, () where it is measured; reduce: data.reduce."""

    channels: int = 0
    range: tuple[float, ...] = ()
    reduce: Literal["area", "dct"] = "area"

    @classmethod
    def of(cls, config: DataConfig) -> Form:
        return cls(config.channels, tuple(map(float, config.range)), config.reduce)

    @property
    def given(self) -> Depth | None:
        """The range of images of more than 8 bits where the config names it."""
        return Depth(*self.range) if self.range else None

    def decode(
        self, data: bytes | memoryview | None, where: str, depth: Callable[[], Depth | None] | None = None, shorter_side: int = 0
    ) -> np.ndarray:
        """(H, W, 3) uint8, or (H, W, channels) uint8 or float32 of an encoded image; depth: of its set. Raises BrokenImage.

        depth None: the image belongs to no set, and is taken by data.range, or without one by its own range.
        """
        if not self.channels:
            within = depth or (lambda: self.given if self.range else None)
            known = (lambda: pixels.of_set(within(), where)) if depth or self.range else None
            return decode(data, where, known, shorter_side=shorter_side, exact=self.reduce == "area")
        image = native(data, where, self.channels)
        scale = self.given or (depth() if depth else None if image.dtype == np.uint8 else Depth.of([image]))
        return reduced(scaled(image, scale, where), shorter_side)

    def survey(self, samples: Iterable[tuple[str, bytes | memoryview]]) -> Pixels:
        """What a sample of a set tells of its files. Raises ConfigError where most have another number of channels."""
        if not self.channels:
            return pixels.survey(samples, self.given)
        ranges, others, count, bytewise, first = list[np.ndarray](), Counter[int](), 0, 0, dict[int, str]()
        for where, data in samples:
            count += 1
            try:
                image = native(data, where, self.channels)
            except OtherChannels as other:
                others[other.channels] += 1
                first.setdefault(other.channels, where)
                continue
            except BrokenImage:
                continue
            if image.dtype == np.uint8:
                bytewise += 1
            else:
                ranges.append(np.array([image.min(), image.max()]))
        if 2 * others.total() > count:
            most, number = others.most_common(1)[0]
            raise ConfigError(
                "data.channels",
                f"got {self.channels}, but {number} of {count} sampled images have {most}, such as {first[most]}; give {most}",
            )
        depth = self.given or (Depth.of(ranges) if ranges else None)
        said = (
            f"{self.channels} channels of 8 bits"
            if depth is None
            else f"{self.channels} channels, whose values of {depth} become 0 to 1"
        )
        some = f" ({bytewise} of {count} sampled images have 8 bits, whose 0 to 255 do)" if depth and bytewise else ""
        return Pixels(depth, (said + some,) if ranges or bytewise else ())


RGB = Form()


def scaled(image: np.ndarray, scale: Depth | None, where: str) -> np.ndarray:
    """uint8 as it is in a set of 8 bits, whose scale is None; else float32 in [0, 1]. Raises BrokenImage for more than 8 bits in a set of 8."""
    if scale is None:
        if image.dtype != np.uint8:
            pixels.of_set(None, where)
        return np.ascontiguousarray(image)
    return scale.fraction(image)
