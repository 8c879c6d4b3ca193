"""Dotted keys as they are declared: how their values are parsed, checked and explained."""

from __future__ import annotations

import dataclasses
import math
import operator
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from ..errors import ConfigError, UserError, shown
from ..storage.logins import bare

if TYPE_CHECKING:
    from .tree import RunConfig


@dataclass(frozen=True)
class Key:
    """A dotted key as declared: how its values are parsed, checked and explained."""

    type: Any
    help: str
    unit: str
    bounds: Mapping[str, float]
    empty: str = ""  # the word for a tuple without values

    def parse(self, key: str, given: Any) -> Any:
        """Text (from the command line: a string or a list of them) or YAML values -> the declared type."""
        if isinstance(given, (list, tuple)) and get_origin(self.type) is not tuple:
            if not given and (self.type is bool or "true" in get_args(self.type)):
                given = [True]  # a bare --train.compile
            if len(given) != 1:
                raise ConfigError(
                    key, f"got {' and '.join(repr(str(each)) for each in given) or 'no value'}, takes one value: {self.allowed}"
                )
            given = given[0]
        return self._tuple(key, given) if get_origin(self.type) is tuple else self._scalar(key, self.type, given)

    def _tuple(self, key: str, given: Any) -> tuple[Any, ...]:
        values = given if isinstance(given, (list, tuple)) else str(given).replace(",", " ").split()
        kinds = get_args(self.type)
        if kinds[-1] is Ellipsis:
            if self.empty and [str(value).strip() for value in values] == [self.empty]:
                return ()
            return tuple(self._scalar(key, kinds[0], value) for value in values if value != "")
        if len(values) != len(kinds):
            raise ConfigError(key, f"got {' '.join(map(str, values)) or 'no value'}, takes {len(kinds)} values: {self.allowed}")
        return tuple(self._scalar(key, kind, value) for kind, value in zip(kinds, values, strict=True))

    def _scalar(self, key: str, kind: Any, given: Any) -> Any:
        text = str(given).strip()
        words, kind = _worded(kind)
        if text in words:
            return text
        if get_origin(kind) is Literal:
            if isinstance(given, bool):
                text = text.lower()  # YAML's true and false
            if text not in get_args(kind):
                raise ConfigError(key, f"got {given!r}, must be {self.allowed}")
            return text
        if kind is bool:
            if text.lower() not in ("true", "false"):
                raise ConfigError(key, f"got {given!r}, must be true or false")
            return text.lower() == "true"
        if kind is str:
            if shown(text) != text:
                words = "must be text in UTF-8 on one line; where a path is not, give . from within it, or a link"
                raise ConfigError(key, f"got {bare(text)}, {words}")
            return bare(text)
        try:
            number = float(text) if not isinstance(given, bool) else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise ConfigError(key, f"got {given!r}, must be {self.allowed}")
        return int(text) if kind is int and text.lstrip("+-").isdigit() else kind(number)

    def check(self, key: str, value: Any) -> None:
        """Refuse a value of another type or outside the bounds."""
        if isinstance(value, str) and bare(value) != value:
            raise ConfigError(key, f"{bare(value)} was given with its login; RunConfig.make and replace keep that apart")
        parsed = self.parse(key, value)
        if type(parsed) is not type(value) and not (isinstance(parsed, (float, tuple)) and isinstance(value, (int, list))):
            raise ConfigError(key, f"got {value!r} of type {type(value).__name__}, must be {self.allowed}")
        for number in parsed if isinstance(parsed, tuple) else (parsed,):
            if isinstance(number, str):
                continue
            if not all(getattr(operator, name)(number, bound) for name, bound in self.bounds.items()):
                raise ConfigError(
                    key, f"got {value if not isinstance(value, tuple) else ' '.join(map(str, value))}, must be {self.allowed}"
                )

    @property
    def allowed(self) -> str:
        """What values are allowed, in words."""
        kind = self.type
        if get_origin(kind) is Literal:
            return " | ".join(get_args(kind))
        many = ""
        if get_origin(kind) is tuple:
            kinds = get_args(kind)
            many = "one or more of " if kinds[-1] is Ellipsis else f"{len(kinds)} times "
            kind = kinds[0]
        words, kind = _worded(kind)
        name = {bool: "true or false", int: "an integer", float: "a number", str: "text"}[kind]
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        span = " and ".join(f"{signs[bound]} {limit:g}" for bound, limit in self.bounds.items())
        others = [*words, *([self.empty] if self.empty else [])]
        return f"{many}{name}{' ' + span if span else ''}{''.join(f', or {word}' for word in others)}"


def _worded(kind: Any) -> tuple[tuple[str, ...], Any]:
    """(the words, the type besides) of a type such as int | Literal["auto"]; no words of other types."""
    if get_origin(kind) not in (Union, UnionType):
        return (), kind
    plain, words = get_args(kind)
    return get_args(words), plain


def declared_keys(config: RunConfig, parts: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Key]]:
    """Every dotted key of a config, in the order of the tree; those of plug-ins follow their section's. parts: instead of its own."""
    parts = config.parts if parts is None else parts
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        if section.name == "views":
            for name, view in value.items():
                yield from _section_keys(f"views.{name}", view)
        elif section.name == "seed":
            yield section.name, Key(int, "seed of everything random", "", {"ge": 0, "le": 10**9})
        elif section.name != "parts":
            yield from _section_keys(section.name, value)
            for prefix, part in parts.items():
                if prefix.startswith(f"{section.name}."):
                    yield from _section_keys(prefix, part)


def _section_keys(prefix: str, section: Any) -> Iterator[tuple[str, Key]]:
    for name, key in _keys_of(type(section)).items():
        yield f"{prefix}.{name}", key


@cache
def _keys_of(section: type) -> dict[str, Key]:
    hints, found = typing.get_type_hints(section), {}
    for spec in dataclasses.fields(section):
        meta = spec.metadata
        if "help" not in meta:
            raise TypeError(f"{section.__name__}.{spec.name} is not declared with setting(default, help, ...)")
        found[spec.name] = Key(hints[spec.name], meta["help"], meta["unit"], meta["bounds"], meta.get("empty", ""))
    return found


def misdeclared(config: Any) -> str:
    """Why the Config of one's own file cannot be read as keys, and how to mend it; empty: it can."""
    if not (isinstance(config, type) and dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen):  # pyright: ignore[reportAttributeAccessIssue]
        return "its Config must be a frozen dataclass"
    for spec in dataclasses.fields(config):
        if "help" not in spec.metadata:
            return f"Config.{spec.name} must be made by setting(default, help, ...)"
    try:
        hints = typing.get_type_hints(config)
    except Exception as error:
        return f"the types of its Config cannot be read ({type(error).__name__}: {error}); name types that the file imports"
    for spec in dataclasses.fields(config):
        kind, bounds = hints[spec.name], spec.metadata["bounds"]
        scalars = [each for each in get_args(kind) if each is not Ellipsis] if get_origin(kind) is tuple else [kind]
        if not scalars or not all(_scalar_type(each) for each in scalars):
            return f"Config.{spec.name} is a {_shown_type(kind)}, must be bool, int, float, str, a Literal of texts, or a tuple of these"
        if bounds and not all(each in (int, float) for each in scalars):
            return f"Config.{spec.name} has bounds ({', '.join(bounds)}), which only numbers can have"
    return ""


def _scalar_type(kind: Any) -> bool:
    return kind in (bool, int, float, str) or (
        get_origin(kind) is Literal and all(isinstance(each, str) for each in get_args(kind))
    )


def _shown_type(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def dotted(given: Mapping[str, Any] | None, prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a mapping that may be nested. Raises UserError for what is none."""
    if given is not None and not isinstance(given, Mapping):
        example = given if isinstance(given, (str, Path)) else "photos/"
        raise UserError(f"overrides: got {given!r:.80}, must be a mapping of keys, such as {{'data.source': {str(example)!r}}}")
    flat: dict[str, Any] = {}
    for name, value in (given or {}).items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value) if isinstance(value, Path) else value
    return flat
