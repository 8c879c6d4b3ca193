"""What cannot work on the data that there are: found all at once, each with a value that would do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import MEASURED, WRITTEN, RunConfig
from ..config.auto import AUTO
from ..config.registry import load_method
from ..errors import ConfigError
from ..methods._base import Limit, View
from . import backbones
from .vit import SHAPES

# that say what a command is about, before what differs from the preset
_SHOWN = (
    "data.source",
    "data.image_column",
    "data.label_column",
)


def check(config: RunConfig, samples: int) -> None:
    """Raises ConfigError for what is refused on `samples` training samples: every number with one that would do, and the command that works."""
    method = load_method(config.method.name).method
    lacking = backbones.lacking(config, method.reach) if method.needs_vit(config.method) else ()
    if lacking:
        raise ConfigError(
            "backbone.name",
            f"got {config.backbone.name}, but {config.method.name} so configured needs patches in reach, and that has no {', '.join(lacking)}; "
            f"the built-in transformers have: {', '.join(SHAPES)}",
        )
    if method.needs_map(config.method) and backbones.lacks_map(config):
        words = (
            f"got {config.backbone.name}, but {config.method.name} compares places of a feature map, and none is found in that"
        )
        raise ConfigError("backbone.name", f"{words}; built-in networks have one, and so have most of timm's and torchvision's")
    broken = _broken(config, samples)
    if broken:
        values = mended(config, samples)
        words = [f"{problem}; {values[key]} would do" if key in values else problem for key, problem in broken.items()]
        first, *others = zip(broken, words, strict=True)
        told = "; ".join([first[1], *(f"{key}: {problem}" for key, problem in others)])
        plan = "; or take --preset auto, a plan fitted to the data" if config.method.preset != AUTO else ""
        works = f". This works: {command(config, values)}{plan}" if values else ""
        raise ConfigError(first[0], f"{told}{works}")
    try:
        method.check(config.method, samples=samples, batch=config.train.batch_size, views=views_of(config))
    except ValueError as error:
        key, _, problem = str(error).partition(": ")
        raise ConfigError(f"method.{key}", problem) from None


def views_of(config: RunConfig) -> dict[str, View]:
    """The training views as `Method.check` is given them: those of images say how many channels these have."""
    images = ("image", "patches")
    return {name: replace(view, channels=config.channels) if view.kind in images else view for name, view in config.views.items()}


def mended(config: RunConfig, samples: int) -> dict[str, Any]:
    """Other values of batch, norm groups and the method's numbers, as few and as near as possible, that the data allow; empty: there are none."""
    batch = min(config.train.batch_size, power_below(samples))
    while batch >= 2:
        if all(limit.least <= limit.most for limit in limits_of(config, samples, batch).values()):
            found: dict[str, Any] = {"train.batch_size": batch, "train.norm_groups": min(config.train.norm_groups, batch // 2)}
            flat, found = config.flat(), found | numbers(config, samples, batch)
            return {key: value for key, value in found.items() if flat[key] != value}
        batch = power_below(batch - 1)
    return {}


def numbers(config: RunConfig, samples: int, batch: int, wise: bool = False) -> dict[str, int]:
    """The method's numbers that have limits, by their keys, nearest to what they are. wise: no more than pays, even where more would work."""
    method = config.method
    for _ in range(3):  # one limit may depend on another number
        own = replace(config, method=method)
        limits = limits_of(own, samples, batch)
        if wise:
            limits = {
                name: replace(each, most=max(each.least, min(each.most, each.wise or each.most))) for name, each in limits.items()
            }
        method = replace(method, **{name: within(getattr(method, name), limit) for name, limit in limits.items()})
    return {f"method.{name}": getattr(method, name) for name in limits_of(config, samples, batch)}


def limits_of(config: RunConfig, samples: int, batch: int) -> Mapping[str, Limit]:
    """What the method's numbers can be, by their fields."""
    return load_method(config.method.name).method.limits(config.method, samples=samples, batch=batch)


def within(value: int, limit: Limit) -> int:
    """The number nearest to `value` that works and pays."""
    most = min(limit.most, max(limit.wise, limit.least)) if limit.wise and value > limit.most else limit.most
    return max(limit.least, min(value, most))


def power_below(number: int) -> int:
    """The largest power of two that is not above the number; 0 for none."""
    return 1 << (number.bit_length() - 1) if number > 0 else 0


def command(config: RunConfig, changes: Mapping[str, Any]) -> str:
    """The command line of a config with some keys changed: what differs from its preset."""
    method, preset = config.method.name, config.method.preset
    flat = {**config.flat(), **changes}
    plain = RunConfig.preset_of(method, preset).flat()
    differing = {key: value for key, value in flat.items() if key in _SHOWN or key in changes or plain.get(key) != value}
    hidden = ("method.name", "method.preset", *WRITTEN)
    words = ["contray", "train", method, "--preset", preset]
    for key, value in differing.items():
        if config.fills(key) and key not in changes:
            continue  # a plan fills it again
        if key not in hidden and not (key in _SHOWN[1:] and plain[key] == value):
            value = "measured" if key in MEASURED and not value else value
            words += [f"--{key}", *map(_text, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _broken(config: RunConfig, samples: int) -> dict[str, str]:
    """What is refused, by key, in words."""
    batch, found = config.train.batch_size, dict[str, str]()
    if samples < batch:
        found["train.batch_size"] = (
            f"got {batch}, but {config.data.source} has {samples} training samples and every global batch is full"
        )
    fitting = mended(config, samples).get("train.batch_size", batch) if samples < batch else batch
    for name, limit in limits_of(config, samples, fitting).items():
        value = getattr(config.method, name)
        if limit.least > limit.most:
            batch_of = mended(config, samples).get("train.batch_size")
            found["train.batch_size"] = f"got {batch}, too many for {samples} training samples and {name} ({limit.most_is})"
            if batch_of is None:
                continue
            limit = limits_of(config, samples, batch_of)[name]
        if not limit.least <= value <= limit.most:
            low, high = (
                f"{end}{f' ({why})' if why else ''}" for end, why in ((limit.least, limit.least_is), (limit.most, limit.most_is))
            )
            found[f"method.{name}"] = f"got {value}, must be from {low} to {high}"
    return found
