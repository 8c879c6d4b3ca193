"""Loss and gradients must stay numbers: the step in which they did not is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import OnAllRanks

NEVER = 2**62  # a step that does not come
NON_FINITE = "loss or gradients are not finite"
MENDING = (
    "the newest checkpoint is from before it. "
    "A lower optim.lr, optim.clip or train.precision fp32 may mend it, train.on_nan skip leaves the step out"
)


class NonFiniteLoss(OnAllRanks):
    """The loss or the gradients stopped being numbers in `step`."""

    def __init__(self, step: int, text: str) -> None:
        super().__init__(f"step {step}: {text}")
        self.step, self.text = step, text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.text)


class NonFiniteState(NonFiniteLoss):
    """The state is not finite after `step`, though loss and gradients were: no step that could be left out is to blame."""


def free_to_read(device: torch.device) -> bool:
    """Whether reading a tensor waits for nothing."""
    return device.type == "cpu"


class Finite:
    """The first step whose gradients (on all ranks alike) or own share of the loss were not finite.

    Kept on the device, and read only where the loop waits for it anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._gradients = self._loss = torch.tensor(NEVER, device=device)

    def see(self, step: int, grad_norm: Tensor, loss: Tensor) -> None:
        self._gradients = torch.where(grad_norm.isfinite(), self._gradients, self._gradients.clamp(max=step))
        self._loss = torch.where(loss.detach().isfinite(), self._loss, self._loss.clamp(max=step))

    @property
    def first(self) -> int:
        """The step, or NEVER."""
        return min(int(self._gradients), int(self._loss))

    def check_gradients(self, lr: float, waits: bool) -> None:
        """Raises NonFiniteLoss, on all ranks alike; asks where reading is free, or the loop `waits`."""
        if (waits or free_to_read(self.device)) and int(self._gradients) < NEVER:
            raise NonFiniteLoss(int(self._gradients), f"{NON_FINITE} (learning rate {lr:.3g}); {MENDING}")

    def check_loss(self, step: int, totals: Mapping[str, float]) -> None:
        """Raises NonFiniteLoss where the loss of the global batch is no number. Other metrics are seen in logged steps alone, and decide nothing."""
        if not math.isfinite(totals["loss"]):
            raise NonFiniteLoss(step, f"{NON_FINITE} ({dict(totals)}); {MENDING}")
