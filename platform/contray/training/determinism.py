"""What makes a GPU compute the same twice; a CPU does so by itself, on the same number of threads."""

from __future__ import annotations

import os

import torch

from ..sections import TrainConfig


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
