"""Philox4x64-10 (Salmon et al. 2011) for many keys at once: what `draws.Draws` draws of one sample after the other, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_WORD = (1 << 64) - 1


def words(seed: int, epoch: int, ids: np.ndarray, stream: int, blocks: Sequence[int]) -> np.ndarray:
    """(B, 4 * blocks) uint64: the words of these blocks, counted from 1, of the stream of each sample in `ids` (B,)."""
    counter = np.asarray(blocks, np.uint64)[:, None] + np.zeros(len(ids), np.uint64)  # (blocks, B)
    zero = np.zeros_like(counter)
    state = [counter, zero + ids.astype(np.uint64), zero + np.uint64(epoch), zero]
    first, second = seed & _WORD, stream
    for _ in range(10):
        (high, low), (other_high, other_low) = (
            _product(x, multiplier) for x, multiplier in zip(state[::2], _MULTIPLIERS, strict=True)
        )
        state = [other_high ^ state[1] ^ np.uint64(first), other_low, high ^ state[3] ^ np.uint64(second), low]
        first, second = (first + _WEYL[0]) & _WORD, (second + _WEYL[1]) & _WORD
    return np.stack(state, 2).transpose(1, 0, 2).reshape(len(ids), -1)


def _product(x: np.ndarray, multiplier: int) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of x (...) uint64 times a constant, by halves."""
    top, bottom = np.uint64(multiplier >> 32), np.uint64(multiplier & 0xFFFFFFFF)
    high, low = x >> _HALF, x & _MASK
    middle = high * bottom + ((low * bottom) >> _HALF)
    return high * top + (middle >> _HALF) + ((low * top + (middle & _MASK)) >> _HALF), x * np.uint64(multiplier)


def uniform(drawn: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) of words, as numpy makes them."""
    return (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Cursor:
    """What `Draws.random` gives after `move`, for many samples: each goes on by itself. The first 16 draws alone.

    reach: how many draws of each sample are worked out, a multiple of 4.
    """

    def __init__(self, seed: int, epoch: int, ids: np.ndarray, stream: int, reach: int) -> None:
        blocks = range(4 - reach // 4 + 1, 5)
        self.values = uniform(words(seed, epoch, ids, stream, blocks))[:, ::-1]  # (B, reach): a pool is used from its end
        self.rows, self.at = np.arange(len(ids)), np.zeros(len(ids), np.int64)

    def random(self, where: np.ndarray | None = None) -> np.ndarray:
        """(B,) in [0, 1): the next draw of the samples in the mask `where` (all of them without one); of others what they draw next still."""
        found = self.values[self.rows, np.minimum(self.at, self.values.shape[1] - 1)]
        self.at += 1 if where is None else where
        return found


def shuffled(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, 4) int64 the order that numpy's Generator.shuffle makes of [0, 1, 2, 3] with words (B, 4), and (B,) bool where they do not suffice.

    Words are used by halves, the lower first; each is masked to its lowest bits, and left out where these are too large.
    """
    halves = np.stack([drawn & _MASK, drawn >> _HALF], 2).reshape(len(drawn), -1).astype(np.int64)  # (B, 8)
    order, rows = np.tile(np.arange(4), (len(drawn), 1)), np.arange(len(drawn))
    fits = (halves[:, 1:-1] & 3) < 3
    second = 1 + fits.argmax(1)
    for last, chosen in ((3, halves[:, 0] & 3), (2, halves[rows, second] & 3), (1, halves[rows, second + 1] & 1)):
        chosen = np.minimum(chosen, last)
        order[rows, last], order[rows, chosen] = order[rows, chosen], order[rows, last]
    return order, np.asarray(~fits.any(1))
