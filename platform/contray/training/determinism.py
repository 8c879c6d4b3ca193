"""What makes a GPU compute the same twice; a CPU does so by itself, on the same number of threads. And that a method draws where all can follow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from ..config.sections import TrainConfig
from ..errors import OnAllRanks


def make_deterministic(train: TrainConfig, device: torch.device) -> None:
    """Set torch's switches for a run on `device`: all of them, whatever a run before it in this process has set.

    Operations that have no deterministic kernel warn (warn_only): better said than refused after hours.
    """
    if device.type != "cuda":
        return
    exact = train.deterministic
    if exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(exact, warn_only=True)
    torch.backends.cudnn.benchmark = not exact
    torch.backends.cudnn.deterministic = exact
    torch.backends.cuda.matmul.allow_tf32 = not exact
    torch.backends.cudnn.allow_tf32 = not exact


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
    def watched(self, step: int) -> Iterator[None]:
        """Raises OnAllRanks where the CPU's generator has moved within; where a GPU's has, a library may have moved it unread, so it is said once."""
        before = self.states()
        yield
        host, *gpu = (not torch.equal(now, then) for now, then in zip(self.states(), before, strict=True))
        words = (
            f"method.name: {self.method} draws from torch's global generator in step {step} (torch.randn, nn.Dropout, ...), where each worker "
            "draws otherwise and a run that goes on does too; batch.rand(name, shape) gives the same draws everywhere"
        )
        if host:
            raise OnAllRanks(words)
        if any(gpu) and not self.said and self.rank == 0:
            self.said = True
            print(f"contray: {words}", flush=True)
