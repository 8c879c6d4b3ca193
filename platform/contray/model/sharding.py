"""The optimiser's state shared out over ranks (ZeRO, stage 1: Rajbhandari et al. 2020, arXiv 1910.02054, §5.1).

Ours rather than ZeroRedundancyOptimizer: that makes parameters views of flat buffers, which takes channels_last from them, or sends each by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from ..methods._ranks import side_group, world_size
from .gradients import divided, packed

PIECE = 32 * 2**20  # bytes that are sent at once


class Sharded:
    """An optimiser whose state of each parameter is on one rank alone, which makes that parameter's step and tells the others.

    Steps are bit for bit those of the optimiser by itself. What checkpoints hold is whole, so that any world reads it.
    shard: False: every rank has all.
    """

    def __init__(self, optimizer: Optimizer, shard: bool) -> None:
        self.optimizer, world = optimizer, world_size()
        self.shard = shard and world > 1
        self.params: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self.owned = _shared_out(self.params, world) if self.shard else [self.params]
        self.rank = dist.get_rank() if self.shard else 0
        self.own = set(self.owned[self.rank])

    def step(self) -> None:
        """As the optimiser's; of parameters of other ranks the gradients are let go."""
        for p in self.params if self.shard else ():
            if p not in self.own:
                p.grad = None
        self.optimizer.step()
        if self.shard:
            self._tell()

    @torch.no_grad()
    def _tell(self) -> None:
        for rank, owned in enumerate(self.owned):
            for params in divided(owned, PIECE):
                flat, views = packed(params)
                if rank == self.rank:
                    torch._foreach_copy_(views, params)
                dist.broadcast(flat, rank)
                if rank != self.rank:
                    torch._foreach_copy_(list(params), views)

    def state_dict(self) -> dict[str, Any]:
        """Whole on rank 0, of this rank's own parameters on others. All ranks come to it together."""
        found = self.optimizer.state_dict()
        if self.shard:
            own = {i: {key: _on_cpu(value) for key, value in state.items()} for i, state in found["state"].items()}
            parts: list[Any] | None = [None] * world_size() if self.rank == 0 else None
            dist.gather_object(own, parts, 0, group=side_group())
            found["state"] = {i: state for part in parts or [own] for i, state in sorted(part.items())}
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take this rank's part of a whole state."""
        own = {i: of for i, of in state["state"].items() if self.params[i] in self.own}
        self.optimizer.load_state_dict({**state, "state": own})

    def forget(self, param: Tensor) -> None:
        """Forget what is known of a parameter that was set anew."""
        self.optimizer.state.pop(param, None)


def _shared_out(params: Sequence[Tensor], world: int) -> list[list[Tensor]]:
    """Each parameter to the rank that has the fewest elements so far, the largest first; in their own order on each."""
    parts: list[list[int]] = [[] for _ in range(world)]
    sizes = [0] * world
    for i in sorted(range(len(params)), key=lambda i: -params[i].numel()):
        rank = sizes.index(min(sizes))
        parts[rank].append(i)
        sizes[rank] += params[i].numel()
    return [[params[i] for i in sorted(part)] for part in parts]


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
