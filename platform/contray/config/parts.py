"""Keys that plug-ins declare: each brings a frozen Config, whose keys are read as SECTION.NAME.key, such as eval.finetune.lrs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UserError, nearest
from .registry import find, names
from .sections import BACKBONES, LIBRARIES, BackboneConfig, DataConfig, EvalConfig, LibraryConfig

CHOOSING = ("backbone.name", "data.source")  # keys that name plug-ins
SECTIONS = {"backbone": BackboneConfig, "data": DataConfig, "eval": EvalConfig}


def parts_of(values: Mapping[str, Any]) -> dict[str, type]:
    """Dotted prefix -> Config, of every plug-in that a config has whose keys of CHOOSING have these values."""
    found: dict[str, type] = {}
    _add_backbone(found, values["backbone.name"])
    return found


def _add_backbone(found: dict[str, type], name: str) -> None:
    """The keys of a library, or of one's own file where it declares some. Raises ConfigError for a name that is none of them."""
    if name in BACKBONES:
        return
    if name.startswith(LIBRARIES):
        add_part(found, "backbone", name.partition("/")[0], LibraryConfig)
        return
    known = [*BACKBONES, *names("backbone")]
    if not name.endswith(".py") and name not in known:
        ways = "timm/NAME, torchvision/NAME and a path to a .py file work too"
        raise ConfigError("backbone.name", f"got {name!r}; {nearest(name, known)} ({ways})")
    file = find("backbone", name)
    if not callable(getattr(file, "build", None)) or not isinstance(getattr(file, "ABOUT", None), str):
        raise UserError(
            f"backbone {name}: the file must define ABOUT (str) and build(config, channels, side); see docs/examples/vit_like.py"
        )
    if hasattr(file, "Config"):
        add_part(found, "backbone", name, file.Config)


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
