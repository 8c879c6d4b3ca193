"""The plain network within a method, and inputs without content to find it with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..errors import UserError


def blank(config: RunConfig, method: nn.Module) -> dict[str, Tensor]:
    """Evaluation inputs of two rows, without content: {name: (2, ...)}."""
    inputs: dict[str, Tensor] = {}
    for name, view in type(method).eval_views(config.views).items():  # pyright: ignore[reportAttributeAccessIssue]
        rows, side, _ = view.grid
        shape = {
            "image": (config.channels, view.size, view.size), "patches": (rows * rows, config.channels, side, side), "array": (view.channels, view.size),
            "tokens": (view.size,),
        }[view.kind]  # fmt: skip
        inputs[name] = torch.zeros(2, *shape, dtype=torch.int64 if view.kind == "tokens" else torch.float32)
    return inputs


@torch.no_grad()
def plain_backbone(config: RunConfig, method: Any) -> nn.Module:
    """The network that is given the image and whose output the features are. Raises UserError where they are more than that."""
    inputs, seen = blank(config, method), list[Any]()
    nets = [module for module in method.children() if hasattr(module, "out_dim")]
    hooks = [net.register_forward_hook(lambda net, args, output: seen.append((net, args[0], output))) for net in nets]
    features = method.encode(inputs)
    for hook in hooks:
        hook.remove()
    for net, given, output in seen:
        if given is inputs.get("image") and output is features:
            return net
    raise UserError(f"the features of {config.method.name} are not the output of one plain network on the image")


@torch.no_grad()
def network_under(config: RunConfig, method: Any) -> nn.Module:
    """The one network that computes when an image is encoded, whatever the features are made of: its output, its tokens, several views of it.

    Raises UserError where there are several.
    """
    used = dict[int, nn.Module]()
    hooks = [
        part.register_forward_hook(lambda *_, net=net: used.update({id(net): net}))
        for net in (net for child in method.children() for net in (child, *child.children()) if hasattr(net, "out_dim"))
        for part in net.modules()
    ]
    method.encode(blank(config, method))
    for hook in hooks:
        hook.remove()
    if len(used) != 1:
        raise UserError(f"{config.method.name} encodes an image by {len(used)} networks, not by one")
    return next(iter(used.values()))
