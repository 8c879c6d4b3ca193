"""What changes beside parameters and persistent buffers: generators, attributes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

NAMES = ("torch", "numpy.random", "random")


def states() -> tuple[object, ...]:
    """Of the global generators, in the order of NAMES."""
    numpy = np.random.get_state(legacy=False)
    return torch.random.get_rng_state().numpy().tobytes(), repr(numpy), random.getstate()


def hidden(method: nn.Module) -> dict[str, object]:
    """What no checkpoint holds, by name, as something that can be compared: plain attributes of all its modules, buffers that are not persistent."""
    found: dict[str, object] = {}
    for path, module in method.named_modules():
        where = f"self.{path}." if path else "self."
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules", "_backward_hooks", "config", "training"):
                found[where + name] = _comparable(value)
        for name in module._non_persistent_buffers_set:
            found[where + name] = _comparable(module._buffers[name])
    return found


def _comparable(value: Any) -> object:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous().float().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, Mapping):
        return {str(key): _comparable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set)) or type(value).__name__ == "deque":
        return [_comparable(each) for each in value]
    return value if isinstance(value, (bool, int, float, str, bytes, type(None))) else type(value).__name__
