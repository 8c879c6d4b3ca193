"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): of each block what goes in is kept, the rest computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from ..config import RunConfig
from ..errors import ConfigError
from ..methods._base import Batch
from ..methods._norms import again
from . import backbones
from .anatomy import networks_in, transformer_of
from .method import shape_key

KEY = "scale.activation_checkpointing"
OTHERWISE = "scale.max_batch_per_worker saves memory in any network"
NONE = "has no blocks to compute again"
HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def recompute(method: nn.Module) -> list[nn.Module]:
    """Have every block of the method's networks forget what is in it; the blocks. Raises ConfigError where a network has none."""
    found = [(name, net, blocks_of(net)) for name, net in networks_in(method).items()]
    for name, net, blocks in found:
        if not blocks and any(p.requires_grad for p in net.parameters()):
            raise ConfigError(KEY, f"{name} ({type(net).__name__}) {NONE}; {OTHERWISE}")
    return forget([block for _, _, blocks in found for block in blocks])


def forget(blocks: list[nn.Module]) -> list[nn.Module]:
    """The blocks, which from now on keep what goes in alone. There is no module around them, so that weights keep their names."""
    for block in blocks:
        block.forward = partial(_forgetting, block.forward, type(block).__name__)
    return blocks


def seen(blocks: Sequence[nn.Module], keep: Callable[[Tensor], object]) -> list[RemovableHandle]:
    """Have `keep` see what goes into each block, which torch's saved_tensors_hooks do not; what ends that."""

    def see(block: nn.Module, given: Any) -> None:
        for each in _tensors(given):
            keep(each)

    return [block.register_forward_pre_hook(see) for block in blocks]


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """A transformer's blocks; of other networks the residual blocks and the like: what their stages hold that has several layers."""
    found = transformer_of(net)
    if found is not None:
        return found.blocks
    held = [block for holder in net.modules() if isinstance(holder, HOLDERS) for block in _several(holder)]
    blocks = [block for block in held if type(block) not in HOLDERS[1:] and not _is_stage(block)]
    within = {inner for block in blocks for inner in block.modules() if inner is not block}
    return [block for block in dict.fromkeys(blocks) if block not in within]


def _several(holder: nn.Module) -> list[nn.Module]:
    """Of what it holds what has several layers."""
    layers = (nn.Conv1d, nn.Conv2d, nn.Linear)
    return [block for block in holder.children() if sum(isinstance(layer, layers) for layer in block.modules()) > 1]


def _is_stage(block: nn.Module) -> bool:
    return any(isinstance(holder, HOLDERS) and len(_several(holder)) > 1 for holder in block.modules())


def _forgetting(forward: Callable[..., Any], kind: str, *given: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*given, **named)
    given, named = _copied(given), _copied(named)  # lists, that others may change later
    tensors = list(_tensors((given, named)))
    before = [each._version for each in tensors]

    def run(*given: Any, **named: Any) -> Any:
        return forward(*_copied(given), **_copied(named))  # that the block changes itself

    out = checkpoint(run, *given, use_reentrant=False, preserve_rng_state=False, context_fn=again, **named)
    if [each._version for each in tensors] != before:
        raise ConfigError(
            KEY, f"a block ({kind}) changes in place what it is given, so that it cannot be computed again; {OTHERWISE}"
        )
    return out


def _copied(value: Any) -> Any:
    """Its lists, tuples and dicts anew, the tensors in them as they are."""
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _tensors(each)
    if isinstance(value, Tensor):
        yield value


# ---------------------------------------------------------------- whether a network allows it

ROWS = 4  # two norm groups
_ALLOWED: set[str] = set()


def check(config: RunConfig) -> None:
    """Refuse a backbone without blocks, and one of others whose gradients are not those that it has otherwise. Raises ConfigError."""
    sides = [side for view in config.views.values() if (side := backbones.image_side(view))]
    key = shape_key(config)
    if key in _ALLOWED or not sides:
        return
    if config.backbone.name in backbones.BACKBONES:
        problem = "" if blocks_of(backbones.sketch(config)) else NONE
    else:
        problem = unlike(backbones.factory(config)(), config.channels, min(sides))
    if problem:
        raise ConfigError(KEY, f"got true, but {config.backbone.name} {problem}; {OTHERWISE}")
    _ALLOWED.add(key)


def unlike(net: nn.Module, channels: int, side: int) -> str:
    """Why the network cannot be computed again block by block, tried on images of `side` px, in words; empty: it can. It is not to be used afterwards."""
    net.train().double()
    x = torch.rand(ROWS, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = _gradients(net, x)
    if not forget(blocks_of(net)):
        return NONE
    found = _gradients(net, x)
    close = [(grad - found[name]).abs().max() <= 1e-9 * grad.abs().max() for name, grad in plain.items() if grad.numel()]
    return "" if all(close) else "has other gradients when its blocks are computed again: they keep or change something"


def _gradients(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    slot = torch.arange(ROWS)
    net.zero_grad(set_to_none=True)
    with Batch({}, slot, slot, ROWS, groups=2, track=False).norm("blocks"):
        out: Tensor | Sequence[Tensor] = net(x)
    (out if isinstance(out, Tensor) else out[0]).square().sum().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
