"""What the encoder holds before its one vector: blocks of a transformer, tokens, the last feature map. Read while `encode` runs.

Hooks tell which of a method's networks `encode` runs (DINO's is the teacher's), so no method needs a special case.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, UserError
from ...methods._base import Method
from ...model.anatomy import Reading, networks_in, transformers_in


def outputs_of(method: Method, inputs: Mapping[str, Tensor], layers: list[nn.Module]) -> dict[nn.Module, Tensor]:
    """What those of the layers put out that `encode` ran, the last time that each was run."""
    outputs: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, _: Any, output: Tensor) -> None:
        outputs[layer] = output

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(keep).remove)
        method.encode(inputs)
    return outputs


def inputs_of(method: Method, inputs: Mapping[str, Tensor], layers: list[nn.Module]) -> dict[nn.Module, Tensor]:
    """What those of the layers were given first that `encode` ran, the last time that each was run."""
    given: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, args: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> None:
        given[layer] = args[0] if args else next(iter(named.values()))

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(keep, with_kwargs=True).remove)
        method.encode(inputs)
    return given


def last_blocks(method: Method, inputs: Mapping[str, Tensor], n: int, average: bool) -> Tensor:
    """(B, n*D) class tokens of the last n blocks, each after the network's last norm; `average` adds (B, D), the mean patch of the last.

    The features of DINO's linear evaluation (Caron et al. 2021). Raises UserError for a backbone without blocks, ConfigError for too many of them.
    """
    nets = transformers_in(method)
    if not nets:
        raise UserError("eval last_n: the backbone has no transformer blocks; linear, paper and attentive need none")
    if n > len(nets[0].blocks):
        raise ConfigError("eval.last_n.blocks", f"got {n}, but the backbone has {len(nets[0].blocks)} blocks")
    seen = outputs_of(method, inputs, [block for net in nets for block in net.blocks[-n:]])
    parts: list[Tensor] = []
    for net in nets:
        blocks = [net.norm(seen[block]) for block in net.blocks[-n:] if block in seen]  # (B, P+L, D) each
        parts += [block[:, 0] if net.prefix else block.mean(1) for block in blocks]
        parts += [blocks[-1][:, net.prefix :].mean(1)] if blocks and average else []
    return torch.cat(parts, 1)


def tokens(method: Method, inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, T, D): the tap `tokens` where the method has one, else patch tokens of its transformer or cells of its last feature map.

    Raises UserError where the encoder has nothing of the kind.
    """
    found = method.taps(inputs).get("tokens")
    if found is not None:
        return found
    with ExitStack() as stack:
        read = [stack.enter_context(Reading(net)) for net in networks_in(method).values()]
        method.encode(inputs)
    rows = len(next(iter(inputs.values())))
    maps = [each.tokens for each in read if each.tokens is not None and len(each.tokens) == rows]
    if not maps:
        raise UserError("backbone.name: this encoder has no tokens and no feature map of the whole image")
    return torch.cat(maps, 2)
