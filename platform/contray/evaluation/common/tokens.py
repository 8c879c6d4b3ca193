"""What the encoder holds before its one vector: blocks of a transformer, tokens, the last feature map. Read while `encode` runs.

Hooks tell which of a method's networks `encode` runs (DINO's is the teacher's), so no method needs a special case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError, UserError
from ...methods._base import Method
from ...model.anatomy import Reading, networks_in, parts, stages, transformer_of, transformers_in


def outputs_of(method: Method, inputs: Mapping[str, Tensor], layers: Sequence[nn.Module]) -> dict[nn.Module, Tensor]:
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


def conv_layers(method: Method, inputs: Mapping[str, Tensor]) -> list[nn.Module]:
    """The layers of the convolutional network that encodes, the first first, whose outputs are feature maps of the inputs of one image.

    Where convolutions stand one after the other, each with its ReLU (AlexNet); of other networks the last map of each size. Raises UserError where
    there is none.
    """
    nets = [net for net in networks_in(method).values() if transformer_of(net) is None]
    rows = len(next(iter(inputs.values())))
    relus = [layer for net in nets for name in parts(net) if isinstance(layer := net.get_submodule(name), nn.ReLU)]
    found = [layer for layer, seen in outputs_of(method, inputs, relus).items() if seen.ndim == 4 and len(seen) == rows]
    if len(found) > 2:
        return found
    last = [net.get_submodule(stage.module) for net in nets for stage in stages(net) if not stage.last]
    found = [layer for layer, seen in outputs_of(method, inputs, last).items() if len(seen) == rows]
    if not found:
        raise UserError(
            "eval layers: the backbone has no feature maps of the whole image; last_n and attentive are of transformers"
        )
    return found


def layer_features(method: Method, inputs: Mapping[str, Tensor], layer: nn.Module, most: int) -> Tensor:
    """(B, D*s*s) features of a layer's map (B, D, h, w), averaged down to the largest s x s that has no more than `most` features."""
    seen = outputs_of(method, inputs, [layer])[layer]
    side = max(1, math.isqrt(most // seen.shape[1]))
    return F.adaptive_avg_pool2d(seen, [min(side, each) for each in seen.shape[2:]]).flatten(1)  # pyright: ignore[reportArgumentType]
