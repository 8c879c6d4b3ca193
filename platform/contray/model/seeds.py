"""Randomness folded from (seed, purpose): nothing has a generator whose state would need saving."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def fold(seed: int, *parts: object) -> int:
    """A 63-bit seed, a pure function of `seed` and `parts`."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def seeded(seed: int, *parts: object) -> Iterator[None]:
    """Within it, torch's global CPU generator is seeded for `parts`; afterwards it is as it was. For initialisation only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(seed, *parts))
        yield
