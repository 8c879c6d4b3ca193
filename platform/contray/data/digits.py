"""The built-in set: handwritten digits on coloured textures, after InfoMin's Colourful Moving-MNIST (Tian et al. 2020, sec. 4.2).

A sample is a handwritten digit (8 x 8, scikit-learn's 1797) and one rendering of it: bright, 18 to 24 px of 32, at a random
place, on one of ten kinds of texture. Its three label sets (digit, background, position) tell which factors a view keeps.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..config.sections import DataConfig
from ..errors import ConfigError, nearest
from .draws import generator
from .splits import Source, Split, digest

FACTORS = ("digit", "background", "position")
CELLS = [f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right")]
TEXTURES = ["gradient", "rows", "columns", "diagonals", "checks", "dots", "rings", "waves", "blobs", "grain"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_BANK = 8  # textures of each kind, each four times the picture's area: a picture is a window of one
_DRAWN = 16  # uniform numbers that determine a picture, by factor:
_COLUMNS = {
    "digit": slice(0, 1),
    "background": slice(1, 11),
    "position": slice(11, 13),
}  # 13: size, 14-15: tint, shared by no factor
_FIXED = 20_200_520  # seed of the split and of the fixed pictures; the date of InfoMin's first version

READS = ("label_column",)


def open_source(config: DataConfig, own: None) -> Source:
    """The digits as `open_digits` divides them."""
    return Source("digits", *open_digits(config))


def open_digits(config: DataConfig) -> tuple[DigitSplit, DigitSplit]:
    """(train, test): about 80 and 20 % of each class; they share no handwritten digit."""
    for factor in config.share:
        if factor not in FACTORS:
            raise ConfigError("data.share", f"unknown factor {factor!r}; {nearest(factor, FACTORS)}")
    if config.label_column not in ("", "label", *FACTORS):
        raise ConfigError(
            "data.label_column", f"digits have no label {config.label_column!r}; {nearest(config.label_column, FACTORS)}"
        )
    _, classes = _handwritten()
    rng = generator(_FIXED, "split")
    test = np.zeros(len(classes), bool)
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(classes == digit))
        test[members[: round(len(members) / 5)]] = True
    return DigitSplit("train", np.flatnonzero(~test), config), DigitSplit("test", np.flatnonzero(test), config)


class DigitSplit(Split):
    """len = handwritten digits * data.renderings; sample i shows handwritten digit i // renderings."""

    generated = True
    columns = {"image": "image", "mask": "image", "scanlines": "array", "caption": "text"}

    def __init__(self, part: str, members: np.ndarray, config: DataConfig) -> None:
        """`members`: (M,) which of scikit-learn's handwritten digits this split holds."""
        super().__init__()
        handwritten, classes = _handwritten()
        self.part, self.config = part, config
        self._classes = classes[members]
        self.digits, self.numbers, self.groups = handwritten[members], members, np.repeat(members, config.renderings)
        count = len(self.groups)
        self.own = generator(_FIXED, f"pictures {part}").random((count, _DRAWN))  # what the fixed pictures show
        self.own[:, 0] = (np.arange(count) // config.renderings + 0.5) / len(members)
        self.textures = textures(config.size)
        self._kept = [_COLUMNS[factor] for factor in config.share]
        label = "digit" if config.label_column == "label" else config.label_column
        if label == "digit":
            self.labels, self.classes = classes[members].repeat(config.renderings), [str(digit) for digit in range(10)]
        elif label == "background":
            self.labels, self.classes = (self.own[:, 1] * len(TEXTURES)).astype(np.int64), TEXTURES
        elif label == "position":
            cells = (self.own[:, _COLUMNS["position"]] * 3).astype(np.int64)  # (N, 2): row, column
            self.labels, self.classes = cells[:, 0] * 3 + cells[:, 1], CELLS

    def __len__(self) -> int:
        return len(self.own)

    def describe(self, i: int) -> str:
        renderings = self.config.renderings
        return f"digits {self.part} image {i} (handwritten digit {self.numbers[i // renderings]}, rendering {i % renderings})"

    def content(self) -> str:
        settings = (self.config.size, self.config.renderings, self.config.share, self.config.contrast)
        return digest(settings, self.digits, self.labels)

    def image(self, i: int, rng: np.random.Generator | None) -> np.ndarray:
        """(S, S, 3). The fixed picture, or with `rng` a fresh one that shares the factors of data.share with it.

        Where the digit is not shared the fresh picture shows any other of this split.
        """
        return self._draw(self._numbers(i, rng))[0]

    def value(self, i: int, column: str, rng: np.random.Generator | None) -> Any:
        """Of one picture (the same for the same `rng`): itself, the digit's mask (S, S), its grey values line by line (1, S * S) in
        [0, 1], or a caption that names digit, place and background.
        """
        u = self._numbers(i, rng)
        if column == "caption":
            word = WORDS[self._classes[int(u[0] * len(self.digits))]]
            cell = CELLS[int(u[11] * 3) * 3 + int(u[12] * 3)]
            return f"the digit {word} at the {cell} on {TEXTURES[int(u[1] * len(TEXTURES))]}"
        picture, mask = self._draw(u)
        if column == "mask":
            return mask
        if column == "scanlines":
            return (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).reshape(1, -1) / 255).astype(np.float32)
        return picture

    def _numbers(self, i: int, rng: np.random.Generator | None) -> list[float]:
        """The 16 numbers of `_draw`."""
        drawn = self.own[i]
        if rng is not None:
            fresh = rng.random(_DRAWN)
            for columns in self._kept:
                fresh[columns] = drawn[columns]
            drawn = fresh
        return drawn.tolist()

    def _draw(self, u: list[float]) -> tuple[np.ndarray, np.ndarray]:
        """The picture (S, S, 3) and the digit's mask (S, S) of 16 numbers in [0, 1): digit; kind, texture, window (2), two colours (6); place (2); size; tint (2)."""
        side = self.config.size
        texture = self.textures[int(u[1] * len(TEXTURES))][int(u[2] * _BANK)]
        top, left = int(u[3] * (side + 1)), int(u[4] * (side + 1))
        dark, light = np.array(u[5:8], np.float32), np.array(u[8:11], np.float32)
        picture = shaded(texture[top : top + side, left : left + side], dark, light, self.config.contrast)  # (S, S, 3)

        small, large = round(side * 18 / 32), round(side * 24 / 32)
        size = small + int(u[13] * (large - small + 1))
        mask = cv2.resize(self.digits[int(u[0] * len(self.digits))], (size, size), interpolation=cv2.INTER_CUBIC)
        y, x = int(u[11] * (side - size + 1)), int(u[12] * (side - size + 1))
        paint(picture[y : y + size, x : x + size], mask, tint(u[14], u[15]))
        whole = np.zeros((side, side), np.uint8)
        whole[y : y + size, x : x + size] = mask
        return picture, whole


_RAMP = np.linspace(0, 1, 256, dtype=np.float32)[:, None]  # (256, 1)


def shaded(texture: np.ndarray, dark: np.ndarray, light: np.ndarray, contrast: float) -> np.ndarray:
    """(H, W, 3) uint8: a grey texture (H, W) uint8 between two colours (3,) in [0, 1]."""
    shades = (dark + (light - dark) * _RAMP) * (255 * contrast)  # (256, 3)
    return shades.astype(np.uint8)[texture]


def paint(under: np.ndarray, ink: np.ndarray, colour: np.ndarray) -> None:
    """Draw ink (h, w) uint8 in a colour (3,) in [0, 1] onto the part (h, w, 3) of a picture, in place."""
    under[:] = (under + (255 * colour - under) * (ink[:, :, None] * np.float32(1 / 255))).astype(np.uint8)


def tint(hue: float, saturation: float) -> np.ndarray:
    """(3,) a bright colour: one channel full, none below 0.4."""
    wheel = np.abs((hue * 6 + np.array((0.0, 4.0, 2.0), np.float32)) % 6 - 3) - 1
    return 1 - np.float32(0.6 * saturation) * (1 - np.clip(wheel, 0, 1))


@cache
def _handwritten() -> tuple[np.ndarray, np.ndarray]:
    """((1797, 8, 8) uint8, (1797,) int64): ink and class."""
    table = _table()
    ink, classes = table[:, :-1], table[:, -1]
    return (ink.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8), classes.astype(np.int64)


def _table() -> np.ndarray:
    """(1797, 65) float64: ink 0 to 16 of 8 x 8 pixels, and the class. From scikit-learn's file, without the second that importing it takes."""
    found = find_spec("sklearn")
    for place in (found and found.submodule_search_locations) or ():
        file = Path(place, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    ink, classes = import_module("sklearn.datasets").load_digits(return_X_y=True)  # elsewhere in a release to come
    return np.column_stack([ink, classes])


@cache
def textures(side: int) -> np.ndarray:
    """(10 kinds, _BANK, 2 side, 2 side) uint8 grey textures, in the order of TEXTURES."""
    rng = generator(_FIXED, "textures")
    return np.stack([np.stack([_texture(kind, 2 * side, side, rng) for _ in range(_BANK)]) for kind in TEXTURES])


def _texture(kind: str, extent: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """(extent, extent) uint8. Lengths go with `side`, the picture's, so that a larger picture shows the same scene."""
    y, x = np.mgrid[0:extent, 0:extent] / side  # in pictures
    period, phase = rng.uniform(0.16, 0.34), rng.uniform(0, 1, 2)
    turn = 2 * np.pi / period
    if kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        value = np.sin(1.6 * (np.cos(angle) * x + np.sin(angle) * y) + 6 * phase[0]) / 2 + 0.5
    elif kind == "rows":
        value = (y / period + phase[0]) % 1 < 0.5
    elif kind == "columns":
        value = (x / period + phase[0]) % 1 < 0.5
    elif kind == "diagonals":
        sign = rng.choice((-1.0, 1.0))
        value = ((x + sign * y) / (1.4 * period) + phase[0]) % 1 < 0.5
    elif kind == "checks":
        value = ((x / period + phase[0]) % 1 < 0.5) ^ ((y / period + phase[1]) % 1 < 0.5)
    elif kind == "dots":
        value = ((x / period + phase[0]) % 1 - 0.5) ** 2 + ((y / period + phase[1]) % 1 - 0.5) ** 2 < 0.09
    elif kind == "rings":
        value = np.sin(turn * np.hypot(x - 2 * phase[0], y - 2 * phase[1])) / 2 + 0.5
    elif kind == "waves":
        value = np.sin(turn * (x + 0.1 * np.sin(2 * np.pi * y / 0.5 + 6 * phase[0]))) / 2 + 0.5
    elif kind == "blobs":
        value = _smooth(rng.random((extent, extent)), 0.08 * side)
    else:
        value = _smooth(rng.random((extent, extent)), 0.015 * side)
    return (255 * np.asarray(value, np.float64)).round().astype(np.uint8)


def _smooth(noise: np.ndarray, sigma: float) -> np.ndarray:
    """Noise blurred over `sigma` px and stretched to [0, 1]."""
    found = cv2.GaussianBlur(noise, (0, 0), sigma)
    low, high = np.quantile(found, (0.02, 0.98))
    return np.clip((found - low) / (high - low), 0, 1)
