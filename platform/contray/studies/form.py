"""A study as its file declares it: a claim, whose it is, the arms that it compares, and in what form it is to hold."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config import RunConfig
from ..config.registry import load_method
from ..config.spaces import is_study, study_file
from ..errors import ConfigError, UserError, nearest
from .claims import Form, spoken
from .scales import SCALES

Arm = Any  # the name of an arm: of named arms a text, of a grid the value of its key, or the tuple of them

TEXTS = ("CLAIM", "SOURCE", "METHOD", "METRIC", "PAPER_METRIC", "SMALL")
FIELDS = (*TEXTS, "SPACE", "PAPER", "EXPECT", "BASE", "SCALES", "SEEDS", "COST")
NEEDED = ("CLAIM", "SOURCE", "METHOD", "SPACE", "METRIC", "EXPECT", "SCALES", "COST")
NOT_FREE = ("seed", "track.name")  # the engine's own: no arm may set them


@dataclass(frozen=True)
class Study:
    """What a study's file says. expect: forms of contray.studies, all of which must hold; cost: minutes of one core at the scale digits, else words."""

    name: str
    claim: str
    source: str
    method: str
    space: Mapping[str, Any]  # a grid (key -> values) or named arms (name -> settings)
    metric: str
    expect: Sequence[Form]
    paper: Mapping[Arm, float] = field(default_factory=dict)
    paper_metric: str = ""
    base: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: int = 3
    cost: Mapping[str, Any] = field(default_factory=dict)
    small: str = ""

    @property
    def metrics(self) -> list[str]:
        """METRIC, and what else the claims are about."""
        return list(dict.fromkeys([self.metric, *(name for form in self.expect for name in form.metrics)]))

    def keys(self, scale: str) -> tuple[str, ...]:
        """The keys of the grid at a scale; none where arms are named."""
        space = self.scales[scale].get("SPACE", self.space)
        return tuple(space) if _is_grid(space) else ()

    def settings(self, scale: str) -> dict[Arm, dict[str, Any]]:
        """What each arm sets, in their order."""
        return _arms(self.scales[scale].get("SPACE", self.space))

    def arms(self, scale: str, overrides: Mapping[str, Any] | None = None) -> dict[Arm, RunConfig]:
        """The config of each arm at a scale, seed 0. overrides: dotted keys for all arms; they win over the file, an arm's own settings over them.

        Raises UserError where the study has no such scale, ConfigError for what an arm cannot be.
        """
        self.check_scale(scale)
        own = {key: value for key, value in self.scales[scale].items() if key != "SPACE"}
        shared = {**self.base, **own, **(overrides or {})}
        return {arm: self._config(arm, scale, {**shared, **settings}) for arm, settings in self.settings(scale).items()}

    def check_scale(self, scale: str) -> None:
        """Raises UserError where the study has no such scale."""
        if scale not in self.scales:
            raise UserError(f"--scale: {self.name} has no scale {scale}; it has {', '.join(self.scales)}")

    def _config(self, arm: Arm, scale: str, settings: Mapping[str, Any]) -> RunConfig:
        settings = dict(settings)
        method, preset = _text(settings.pop("method.name", self.method)), _text(settings.pop("method.preset", ""))
        presets = load_method(method).presets
        preset = preset or next(name for name in (*SCALES[scale].presets, "paper") if name in presets)
        try:
            return RunConfig.make(method, {**SCALES[scale].settings, **settings}, preset=preset)
        except ConfigError as error:
            raise ConfigError(error.key, f"arm {spoken(arm)} of {self.name} at scale {scale}: {error.problem}") from None
        except UserError as error:
            raise UserError(f"arm {spoken(arm)} of {self.name} at scale {scale}: {error}") from None

    def digest(self, scale: str) -> str:
        """Of what is compared at a scale and of what is to hold: the same for files that ask the same."""
        own = {key: value for key, value in self.scales[scale].items() if key != "SPACE"}
        asked = self.method, [*self.settings(scale).items()], self.base, own, self.metric, tuple(self.expect)
        return hashlib.sha256(repr(asked).encode()).hexdigest()[:12]

    def minutes(self, scale: str, seeds: int) -> float:
        """What COST says of so many seeds at a scale, in minutes of one core; not a number where it has none there."""
        known = self.cost.get(scale)
        return known * seeds / self.seeds if isinstance(known, (int, float)) else math.nan

    def as_json(self) -> dict[str, Any]:
        """What remains of a study where it was run: all but the settings of its arms and the forms, whose words are in the verdict."""
        facts = {
            name: getattr(self, name)
            for name in ("name", "claim", "source", "method", "metric", "paper_metric", "seeds", "small")
        }
        return {
            **facts,
            "paper": [[arm, value] for arm, value in self.paper.items()],
            "cost": dict(self.cost),
            "scales": list(self.scales),
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Study:
        """What `as_json` kept; it has no arms to run."""
        paper = {arm_of(arm): value for arm, value in facts["paper"]}
        scales = {scale: {} for scale in facts["scales"]}
        return cls(**{**facts, "space": {}, "expect": (), "paper": paper, "scales": scales})


def arm_of(arm: Any) -> Arm:
    """An arm as JSON has it back: lists were tuples."""
    return tuple(map(arm_of, arm)) if isinstance(arm, list) else arm


def load_study(name: str) -> Study:
    """A study by its name, or by the path of a .py file. Raises UserError naming the field of the file that is wrong."""
    module = study_file(name)
    if not is_study(module):
        raise UserError(f"{name} is a search space: contray tune {name}; contray studies lists the studies")
    return study_of(module, Path(name).stem if name.endswith(".py") else name)


def study_of(module: ModuleType, name: str) -> Study:
    """What a study's file says, checked: fields there, of their types, arms of EXPECT and PAPER among those of the space."""

    def refuse(field: str, words: str) -> UserError:
        return UserError(f"study {name}: {f'{field} {words}'.strip()}; see tune_spaces/simclr_temperature.py for the form")

    for each in NEEDED:
        if not hasattr(module, each):
            raise refuse(each, "is missing")
    known = {each: getattr(module, each) for each in FIELDS if hasattr(module, each)}
    for each in vars(module):
        if each.isupper() and each not in FIELDS:
            raise refuse(each, f"is no field of a study; {nearest(each, FIELDS)}")
    for each in TEXTS:
        if not isinstance(known.get(each, ""), str) or (each in NEEDED and not known[each].strip()):
            raise refuse(each, "must be a text")
    for each in ("SPACE", "PAPER", "BASE", "SCALES", "COST"):
        if not isinstance(known.get(each, {}), Mapping):
            raise refuse(each, f"must be a dictionary, got {type(known[each]).__name__}")
    if not re.search(r"https?://", known["SOURCE"]):
        raise refuse("SOURCE", "must hold the paper's address")
    if not isinstance(known["EXPECT"], (list, tuple)) or not known["EXPECT"]:
        raise refuse("EXPECT", "must be a list of forms, such as [Above(0.1, 1.0)]")
    seeds = known.get("SEEDS", 3)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        raise refuse("SEEDS", f"must be a whole number, at least 1, got {seeds!r}")
    for scale, own in known["SCALES"].items():
        if scale not in SCALES:
            raise refuse("SCALES", f"has no scale {scale!r}; {nearest(str(scale), SCALES)}")
        if not isinstance(own, Mapping):
            raise refuse("SCALES", f"of {scale} must be a dictionary of settings")
    for each, settings in {
        "BASE": known.get("BASE", {}),
        **{f"SCALES of {scale}": own for scale, own in known["SCALES"].items()},
    }.items():
        if problem := _foreign(settings):
            raise refuse(each, problem)
    if not known["SCALES"]:
        raise refuse("SCALES", "must name at least one scale")
    for scale in known["SCALES"]:
        if scale not in known["COST"]:
            raise refuse("COST", f"must say what the scale {scale} costs: minutes of one core, or words")
        if not isinstance(cost := known["COST"][scale], str) and not (_number(cost) and cost > 0):
            raise refuse("COST", f"of {scale} must be minutes of one core, above 0, or words, got {cost!r}")
    spaces = {scale: own.get("SPACE", known["SPACE"]) for scale, own in known["SCALES"].items()}
    every: dict[Arm, None] = {}
    for scale, space in {"": known["SPACE"], **spaces}.items():
        where = f"of the scale {scale}" if scale and "SPACE" in known["SCALES"][scale] else ""
        if problem := _misformed(space):
            raise refuse("SPACE", f"{where} {problem}".strip())
        arms = _arms(space)
        every |= dict.fromkeys(arms)
        for form in known["EXPECT"] if scale else ():
            if not isinstance(form, Form):
                raise refuse("EXPECT", f"holds {form!r}, which is no form of contray.studies (Above, Order, Peak, ...)")
            try:
                form.check(list(arms), known["METRIC"])
            except UserError as error:
                raise refuse("", f"{error} (scale {scale})") from None
    for arm, value in known.get("PAPER", {}).items():
        if arm not in every:
            raise refuse("PAPER", f"names the arm {spoken(arm)}, which there is not: {', '.join(map(spoken, every))}")
        if not _number(value):
            raise refuse("PAPER", f"of {spoken(arm)} must be a number, got {value!r}")
    return Study(name, **{each.lower(): value for each, value in known.items()})


def _is_grid(space: Mapping[str, Any]) -> bool:
    return all(isinstance(values, (list, tuple)) for values in space.values())


def _misformed(space: Any) -> str:
    """Why a SPACE is neither a grid nor named arms; empty: it is one."""
    if not isinstance(space, Mapping) or not space:
        return "must be a grid {key: [values]} or named arms {name: {key: value}}"
    if not _is_grid(space) and not all(isinstance(values, Mapping) for values in space.values()):
        return "must be a grid {key: [values]} or named arms {name: {key: value}}, not of both"
    if any(isinstance(value, (Mapping, set)) for values in space.values() if _is_grid(space) for value in values):
        return "has a value that is a dictionary or a set; name the arms instead: {name: {key: value}}"
    arms = _arms(space)
    if len(arms) < 2:
        return "must have two arms at least"
    if len(arms) < math.prod(len(values) for values in space.values() if _is_grid(space)):
        return "has a value twice"
    return next(filter(None, map(_foreign, arms.values())), "")


def _foreign(settings: Mapping[Any, Any]) -> str:
    """Why these are no settings of a study's; empty: they are."""
    for key in settings:
        if not isinstance(key, str):
            return f"has the key {key!r}, must be a text"
        if key in NOT_FREE:
            return f"must not set {key}: seeds and names are the study's"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _arms(space: Mapping[str, Any]) -> dict[Arm, dict[str, Any]]:
    if not _is_grid(space):
        return {arm: dict(settings) for arm, settings in space.items()}
    cells = itertools.product(*(arm_of([*values]) for values in space.values()))  # of a value that is a list the tuple
    return {cell if len(space) > 1 else cell[0]: dict(zip(space, cell, strict=True)) for cell in cells}


def _text(given: Any) -> str:
    return " ".join(map(str, given)) if isinstance(given, (list, tuple)) else str(given)
