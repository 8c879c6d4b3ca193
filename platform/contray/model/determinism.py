"""What makes a GPU compute the same twice; a CPU does so by itself, on the same number of threads."""

from __future__ import annotations

import os

import torch
from torch import nn

from ..config.sections import TrainConfig


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
