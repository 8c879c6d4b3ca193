"""The last feature map of anybody's network in reach, for methods that compare places (`Method.needs_map`)."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor, nn

from .anatomy import FAILURES, Transformer, as_map, stages, transformer_of


def with_map(net: Any) -> Any:
    """The network, given `feature_map` and `map_dim` where it has neither and a map is found: a transformer's patches, else its last stage's.

    The two go along with a copy of the network.
    """
    if hasattr(net, "feature_map"):
        return net
    found = transformer_of(net)
    if found is not None and found.net is net:
        net.map_dim, net.feature_map = net.out_dim, MethodType(_of_patches, net)
        return net
    try:
        last = stages(net)[-1]
    except FAILURES:
        return net
    net.map_dim, net.map_stage, net.feature_map = last.channels, last, MethodType(_of_stage, net)
    return net


def _of_patches(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    found = transformer_of(net)
    assert isinstance(found, Transformer)
    features, tokens = _seen(net, x, found.norm)
    return features, tokens[:, found.prefix :].transpose(1, 2).unflatten(2, found.grid(x))


def _of_stage(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    features, output = _seen(net, x, net.get_submodule(net.map_stage.module))
    return features, as_map(output, net.map_stage.last)


def _seen(net: nn.Module, x: Tensor, within: nn.Module) -> tuple[Tensor, Tensor]:
    """The network's features and what a module within it put out last."""
    outputs: list[Any] = []
    hook = within.register_forward_hook(lambda module, given, output: outputs.append(output))
    try:
        return net(x), outputs[-1]
    finally:
        hook.remove()
