"""What a run logs of its steps: the loss and its parts, the rate, the norms of gradients, the pace; and its audit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from ..config import RunConfig
from ..evaluation.common.diagnosis import LayerNorms
from ..methods._base import Batch, Method
from .agreement import Ranks
from .audit import Audit
from .listener import Listener


class StepLog:
    """Logs the first step, the last, and every train.log_every between, from step `done` on. The pace is of training alone."""

    def __init__(
        self, config: RunConfig, method: Method, ranks: Ranks, listener: Listener, audit: Audit | None, done: int, total: int
    ) -> None:
        self.size, self.every, self.total = config.train.batch_size, config.train.log_every, total
        self.ranks, self.listener, self.audit = ranks, listener, audit
        self._layers = LayerNorms(method) if config.train.log_layers and ranks.rank == 0 else None
        self._norms: Tensor | None = None
        self._started = self._done = done
        self._began, self._rate, self._seconds = time.monotonic(), 0.0, 0.0  # of the window since the last log; of all windows

    def due(self, step: int) -> bool:
        return step % self.every == 0 or step in (1, self.total)

    def gradients(self) -> None:
        """Take the norms of each layer's gradients, before they are clipped, for the log of this step."""
        self._norms = self._layers() if self._layers else None

    def __call__(self, step: int, batch: Batch, out: Mapping[str, Tensor], lr: float, grad_norm: Tensor) -> dict[str, float]:
        """Log a step; its loss and parts of the global batch."""
        wide = torch.float64 if torch.float64 in {value.dtype for value in out.values()} else torch.float32
        values = torch.stack([value.detach().to(wide) for value in out.values()])
        if self.ranks.world > 1:
            dist.all_reduce(values)
        totals = dict(zip(out, values.tolist(), strict=True))
        self._measure(step)
        if self.audit:
            self.audit.step(step, batch.index.tolist(), totals["loss"])
        if self.ranks.rank == 0:
            pace = {"lr": lr, "grad_norm": float(grad_norm), "images_per_second": self._rate}
            layers = self._layers.named(self._norms) if self._layers and self._norms is not None else {}
            self.listener.log(step, {**totals, **pace, **layers})
        return totals

    def _measure(self, step: int) -> None:
        now = time.monotonic()
        if step > self._done:
            self._rate = (step - self._done) * self.size / (now - self._began)
            self._seconds += now - self._began
        self._began, self._done = now, step

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within is no training."""
        pause = time.monotonic()
        yield
        self._began += time.monotonic() - pause

    def images_per_second(self, step: int) -> float:
        """Of all that was trained up to `step`."""
        return (step - self._started) * self.size / self._seconds if self._seconds else 0.0

    def close(self) -> None:
        if self.audit:
            self.audit.close()
