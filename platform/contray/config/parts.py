"""Keys that plug-ins declare: each brings a frozen Config, whose keys are read as SECTION.NAME.key, such as eval.finetune.lrs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .sections import BackboneConfig, DataConfig, EvalConfig

CHOOSING = ("backbone.name", "data.source")  # keys that name plug-ins
SECTIONS = {"backbone": BackboneConfig, "data": DataConfig, "eval": EvalConfig}


def parts_of(values: Mapping[str, Any]) -> dict[str, type]:
    """Dotted prefix -> Config, of every plug-in that a config has whose keys of CHOOSING have these values."""
    found: dict[str, type] = {}
    return found


def part_name(name: str) -> str:
    """How a plug-in is called in keys: by its name, that of a .py file by its stem."""
    return (Path(name).stem if name.endswith(".py") else name).replace("-", "_").replace(".", "_")


def add_part(found: dict[str, type], section: str, name: str, config: Any) -> None:
    """Let `found` have the keys of a plug-in of this section. Raises UserError for a Config that is none, and for a name that is taken."""
    own = part_name(name)
    prefix = f"{section}.{own}"
    if found.get(prefix, config) is not config:
        raise UserError(f"{prefix}: {name} has the name of another one, and their keys would be the same; rename the file")
    if own in {spec.name for spec in dataclasses.fields(SECTIONS[section])}:
        raise UserError(f"{prefix}: {name} has the name of a key of its section; rename the file")
    if not (isinstance(config, type) and dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen):  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(f"{name}: its Config must be a frozen dataclass")
    for spec in dataclasses.fields(config):
        if "help" not in spec.metadata:
            raise UserError(f"{name}: Config.{spec.name} must be made by setting(default, help, ...)")
    found[prefix] = config


def completed(parts: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a config with these values of CHOOSING: those there are as they are, others with their defaults."""
    wanted = parts_of(values)
    return {prefix: parts[prefix] if type(parts.get(prefix)) is config else config() for prefix, config in wanted.items()}
