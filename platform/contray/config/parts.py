"""Keys that plug-ins declare: each brings a frozen Config, whose keys are read as SECTION.NAME.key, such as eval.finetune.lrs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError, UserError, nearest
from ..methods._base import setting
from .registry import SOURCES, find, names
from .sections import BackboneConfig, DataConfig, EvalConfig

CHOOSING = ("backbone.name", "data.source")  # keys that name plug-ins
SECTIONS = {"backbone": BackboneConfig, "data": DataConfig, "eval": EvalConfig}


def parts_of(values: Mapping[str, Any]) -> dict[str, type]:
    """Dotted prefix -> Config, of every plug-in that a config has whose keys of CHOOSING have these values."""
    found: dict[str, type] = {}
    if config := getattr(_source(values["data.source"]), "Config", None):
        add_part(found, "data", values["data.source"], config)
    return found


def _source(name: str) -> ModuleType | None:
    """The plug-in of a data source that brings keys of its own; None for built-in ones, for paths, and for code that is not at hand."""
    if name in SOURCES or not (name.endswith(".py") or name in names("source")):
        return None
    try:
        return find("source", name)
    except ConfigError:  # only who opens the data needs it
        return None


class Unread:
    """Keys of a data source whose code is not at hand, as they stand in a config's text: the encoder is of use without it."""


def unread(values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a config's text (dotted keys) that nobody here can check: of a data source that is neither known nor a path of this machine."""
    name = str(values.get("data.source", ""))
    prefix = f"data.{part_name(name)}"
    own = {key.removeprefix(f"{prefix}."): value for key, value in values.items() if key.startswith(f"{prefix}.")}
    if not own or name in names("source") or _source(name) or (Path(name).exists() and not name.endswith(".py")):
        return {}
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
    kinds = (
        (key, tuple[type(value[0]), ...] if isinstance(value, tuple) and value else type(value)) for key, value in own.items()
    )
    return {prefix: _unread_class(tuple(kinds))(**own)}


@cache
def _unread_class(kinds: tuple[tuple[str, Any], ...]) -> type:
    specs = [
        (key, tuple[str, ...] if kind is tuple else kind, setting(None, "of a data source that is not at hand"))
        for key, kind in kinds
    ]
    return dataclasses.make_dataclass("Unread", specs, bases=(Unread,), frozen=True)


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
    wanted, found = parts_of(values), dict[str, Any]()
    for prefix, config in wanted.items():
        part = parts.get(prefix)
        found[prefix] = part if type(part) is config else _read(prefix, part, config) if isinstance(part, Unread) else config()
    source = f"data.{part_name(values['data.source'])}"
    return found | {
        prefix: part for prefix, part in parts.items() if isinstance(part, Unread) and prefix == source and prefix not in found
    }


def _read(prefix: str, part: Unread, config: type) -> Any:
    """What was not read when its code was not at hand."""
    own, known = vars(part), [spec.name for spec in dataclasses.fields(config)]
    for key in own:
        if key not in known:
            raise ConfigError(f"{prefix}.{key}", f"unknown key; {nearest(key, known)}")
    return config(**own)
