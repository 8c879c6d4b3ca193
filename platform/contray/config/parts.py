"""Keys that plug-ins declare: each brings a frozen Config, whose keys are read as SECTION.NAME.key, such as eval.finetune.lrs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError, UserError, nearest
from ..methods._base import setting
from .keys import misdeclared
from .registry import SOURCES, builtin, find, names, part_name, told
from .sections import BACKBONES, LIBRARIES, BackboneConfig, DataConfig, EvalConfig, LibraryConfig

CHOOSING = ("backbone.name", "data.source", "eval.final", "eval.online")  # keys that name plug-ins
SECTIONS = {"backbone": BackboneConfig, "data": DataConfig, "eval": EvalConfig}


def parts_of(values: Mapping[str, Any]) -> dict[str, type]:
    """Dotted prefix -> Config, of every plug-in that a config has whose keys of CHOOSING have these values."""
    from .evaluations import load_evaluation  # it stands on the registry, which stands on this

    found: dict[str, type] = {}
    _add_backbone(found, values["backbone.name"])
    for key, chosen in (("", builtin("evaluation")), *((key, values[key]) for key in ("eval.final", "eval.online"))):
        for name in chosen:
            try:
                add_part(found, "eval", name, load_evaluation(name).config)
            except ConfigError:
                raise
            except UserError as error:
                raise ConfigError(key, str(error)) if key else error from None
    if config := getattr(_source(values["data.source"]), "Config", None):
        add_part(found, "data", values["data.source"], config)
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


def without_absent(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config's values without the evaluations that cannot be had here: of packages that are not installed, of code that nobody named.

    They are not needed to use the encoder.
    """
    from .evaluations import load_evaluation

    absent: set[str] = set()
    for name in {*values.get("eval.final", ()), *values.get("eval.online", ())}:
        try:
            load_evaluation(str(name))
        except UserError:
            absent.add(str(name))
    kept = {
        key: value for key, value in values.items() if not key.startswith(tuple(f"eval.{part_name(name)}." for name in absent))
    }
    for key in ("eval.final", "eval.online"):
        if key in kept:
            kept[key] = [name for name in kept[key] if str(name) not in absent]
    return kept


def idle(parts: Mapping[str, Any], options: EvalConfig) -> list[str]:
    """Prefixes of parts that decide nothing in a run: evaluations that it does not make."""
    made = {f"eval.{part_name(name)}" for name in options.final + (options.online if options.every_epochs else ())}
    return [prefix for prefix in parts if prefix.startswith("eval.") and prefix not in made]


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


def add_part(found: dict[str, type], section: str, name: str, config: Any) -> None:
    """Let `found` have the keys of a plug-in of this section. Raises UserError for a Config that is none, and for a name that is taken."""
    own = part_name(name)
    prefix = f"{section}.{own}"
    if found.get(prefix, config) is not config:
        raise UserError(f"{prefix}: {name} has the name of another one, and their keys would be the same; rename the file")
    if own in {spec.name for spec in dataclasses.fields(SECTIONS[section])}:
        raise UserError(f"{prefix}: {name} has the name of a key of its section; rename the file")
    if problem := misdeclared(config):
        raise UserError(f"{name}: {problem}")
    found[prefix] = config


def completed(parts: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a config with these values of CHOOSING: those there are as they are, others with their defaults."""
    wanted, found = parts_of(values), dict[str, Any]()
    for prefix, config in wanted.items():
        part = parts.get(prefix)
        found[prefix] = (
            part if type(part) is config else _read(prefix, part, config) if isinstance(part, Unread) else built(prefix, config)
        )
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
    return built(prefix, config, **own)


def built(section: str, make: Callable[..., Any], *old: Any, **values: Any) -> Any:
    """make(*old, **values). Raises ConfigError where a Config's own checks refuse these values of the section."""
    try:
        return make(*old, **values)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(section, told(error, None)) from None
