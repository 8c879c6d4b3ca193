"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): of each block what goes in is kept, the rest computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError
from ..methods._norms import again
from .anatomy import networks_in, transformer_of


def recompute(method: nn.Module) -> list[nn.Module]:
    """Have every block of the method's networks forget what is in it; the blocks. Raises ConfigError where a network has none."""
    found = []
    for name, net in networks_in(method).items():
        blocks = blocks_of(net)
        if not blocks and any(p.requires_grad for p in net.parameters()):
            raise ConfigError(
                "scale.activation_checkpointing",
                f"{name} ({type(net).__name__}) has no blocks to compute again; scale.max_batch_per_worker saves memory in any network",
            )
        found += blocks
    for block in found:
        block.forward = partial(_forgetting, block.forward)  # no module around it, so that weights keep their names
    return found


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """A transformer's blocks; of other networks the residual blocks and the like: the steps of their stages that hold several layers."""
    found = transformer_of(net)
    if found is not None:
        return found.blocks
    stages = [stage for stage in net.modules() if isinstance(stage, (nn.Sequential, nn.ModuleList))]
    blocks = [block for stage in stages for block in stage.children() if _layers(block) > 1]
    within = {inner for block in blocks for inner in block.modules() if inner is not block}
    return [block for block in blocks if block not in within]


def _layers(block: nn.Module) -> int:
    return sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in block.modules())


def _forgetting(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*given, **named)
    return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False, context_fn=again, **named)
