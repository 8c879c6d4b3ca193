"""Random draws that are a pure function of what they are for, so that no generator's state ever has to be saved."""

from __future__ import annotations

import hashlib
import random

import numpy as np

_WORD = (1 << 64) - 1


def stream(name: str) -> int:
    """64 bits that stand for `name` in a key: the same in every process (Python's own hash is not)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def generator(seed: int, name: str, *place: int) -> np.random.Generator:
    """A fresh Philox generator for `name` at up to three counters, e.g. generator(seed, "order", epoch)."""
    return np.random.Generator(np.random.Philox(key=[seed & _WORD, stream(name)], counter=[0, *place, *(0,) * (3 - len(place))]))


class Draws(random.Random):
    """One Philox generator, moved from key to key, that serves as both `np.random.Generator` (`.generator`) and `random.Random`.

    albumentations draws from one of each. Building or seeding a pair anew for each view costs more than the view's pixels;
    setting Philox's key and counter costs 1.4 us. The counter holds (draw, sample, epoch) and the key (seed, stream),
    so no two streams overlap (Salmon et al. 2011).
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._state = self._bits.state
        self._pool: list[float] = []
        self.generator = np.random.Generator(self._bits)
        super().__init__()

    def move(self, seed: int, epoch: int, sample: int, stream: int) -> None:
        """Start the stream of one view of one sample from its beginning."""
        inner = self._state["state"]
        inner["counter"][:] = (0, sample, epoch, 0)
        inner["key"][:] = (seed & _WORD, stream)
        self._bits.state = self._state  # also drops what the generator has buffered
        self._pool = self.generator.random(16).tolist()

    def random(self) -> float:
        """A float in [0, 1), drawn 16 at a time: a single draw through numpy costs eight times as much."""
        if not self._pool:
            self._pool = self.generator.random(16).tolist()
        return self._pool.pop()

    def between(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * self.random()

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self.random() * count)
