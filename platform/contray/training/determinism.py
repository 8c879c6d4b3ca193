"""What makes a GPU compute the same twice; a CPU does so by itself, on the same number of threads. And that a method draws where all can follow."""

from __future__ import annotations

import os

import torch
from torch import nn

from ..errors import OnAllRanks
from ..sections import TrainConfig


def make_deterministic(train: TrainConfig, device: torch.device, method: nn.Module | None = None) -> None:
    """Set torch's switches for a run on `device`: all of them, whatever a run before it in this process has set.

    Operations that have no deterministic kernel warn (warn_only): better said than refused after hours. With a `method` that attends they are
    refused: under warn_only torch computes the gradients of attention in no fixed order, although it has kernels that do.
    """
    if device.type != "cuda":
        return
    exact = train.deterministic
    if exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    attends = method is not None and any(isinstance(layer, nn.MultiheadAttention) for layer in method.modules())
    torch.use_deterministic_algorithms(exact, warn_only=not attends)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]  # every new tensor, for who reads what nobody wrote
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

    def check(self, step: int, before: list[torch.Tensor]) -> None:
        """Raises OnAllRanks where the CPU's generator has moved since `before`; where a GPU's has, a library may have moved it unread, so it is said once."""
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
