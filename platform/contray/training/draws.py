"""That a method draws where all ranks, and a run that goes on, can follow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..errors import OnAllRanks


class Draws:
    """Sees whether a method's step drew from torch's global generators.

    Every rank has its own, and no checkpoint keeps them: such a step depends on the world and on where the run was interrupted, and as
    gradients are summed over ranks, their states agree all the same.
    """

    def __init__(self, method: str, device: torch.device, rank: int) -> None:
        self.method, self.device, self.rank, self.said = method, device, rank, False

    def states(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [])]

    @contextlib.contextmanager
    def guarded(self, step: int) -> Iterator[None]:
        """Raises OnAllRanks where the CPU's generator has moved within; where a GPU's has, a library may have moved it unread, so it is said once."""
        before = self.states()
        yield
        host, *gpu = (not torch.equal(now, then) for now, then in zip(self.states(), before, strict=True))
        words = (
            f"method.name: {self.method} draws from torch's global generator in step {step} (torch.randn, nn.Dropout, ...), where each worker "
            "draws otherwise and a run that goes on does too; batch.rand(name, shape) and batch.draw(name, shape) give the same draws everywhere"
        )
        if host:
            raise OnAllRanks(words)
        if any(gpu) and not self.said and self.rank == 0:
            self.said = True
            print(f"contray: {words}", flush=True)
