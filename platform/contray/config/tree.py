"""One frozen, typed tree of settings. The CLI, `--config run.yaml` and Tune set the same dotted keys through the same checks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UserError, nearest
from ..methods._base import View
from ..storage.names import slug
from .auto import AUTO, Family, left_open, start, without
from .keys import declared_keys, dotted
from .parts import CHOOSING, built, completed, idle, unread, without_absent
from .renamed import NAMED, check_renamed, translated
from .sections import AugmentConfig, BackboneConfig, DataConfig, EvalConfig, OptimConfig, ScaleConfig, TrackConfig, TrainConfig
from .together import check_together

# by the run itself: how its other keys came to be what they are
WRITTEN = (
    "train.settled",
    "train.planned",
    "train.planned_for",
    "train.given",
)
# What may change where a run goes on: nothing that it computes depends on these
FREE = {
    "data.workers",
    "data.memory_gb",
    "data.disk_gb",
    "data.scratch",
    "data.root",
    "data.download",
    "train.keep",
    "train.settled",
    "train.planned",
    "train.planned_for",
    "train.checkpoint_seconds",
    "train.checkpoint_steps",
    "train.allow_changes",
    "train.extend",
    "train.on_nan",
    "train.on_collapse",
    "train.log_layers",
}
# Keys that came later, and what was computed before there were any: at these values they name nothing, so that older runs keep their names
LATER = {
    "backbone.registers": 0,
    "data.shuffle": "full",
    "data.window": 16,
    "data.disk_gb": 0.0,
    "data.subset": "",
    "data.labels": "",
    "data.channels": 0,
    "data.range": (),
    "eval.knn.embedding": False,
    **{
        f"eval.{name}.{key}": value
        for name in ("paper", "attentive")
        for key, value in (("warmup_epochs", 0.0), ("refit", False))
    },
    **{f"eval.{name}.warmup": 0.1 for name in ("finetune", "supervised", "distill", "crd", "noisy_student")},
    **{f"eval.finetune.{key}": 0.0 for key in ("erasing", "mixup", "cutmix", "smoothing", "drop_path")},
    "eval.finetune.randaugment": (0, 9),
    "eval.segmentation.k": 30,
    "views.*.merges": "",
    "views.*.shear": 0.0,
    "views.*.elastic": 0.0,
    "views.*.jitter_as": "torchvision",
    "views.*.gray_order": "after_jitter",
    "views.*.randaugment_as": "torchvision",
    "views.*.grid_kept": 0,
    "views.*.per_patch": False,
    "backbone.init": "moco_v3",
    "optim.clip_lr": False,
    "optim.rate_in_velocity": False,
    "method.projector_layers": "3",
    "method.head_layers": "3",
    "method.loss_scale": 1.0,
    "method.directions": "1",
    "method.momentum_end": -1.0,
    "method.momentum_schedule": "cosine",
    "method.predictor_schedule": "constant",
    "train.init": "",
    "train.init_layout": "",
    "data.augment_on": "auto",
    "data.reduce": "area",
    "scale.activation_checkpointing": False,
    "scale.shard_optimizer": False,
}
EARLIER = {"data.workers": 1}  # defaults of before, which the names of runs still count
MEASURED = ("augment.mean", "augment.std", "data.range")  # empty until a run measures them


@dataclass(frozen=True)
class RunConfig:
    """Everything that makes a run. Build one with `RunConfig.make("simclr", {"train.epochs": 10})`; it is validated on construction."""

    method: Any
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    views: Mapping[str, View] = field(default_factory=dict)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    seed: int = 0
    parts: Mapping[str, Any] = field(default_factory=dict)  # keys of plug-ins: eval.finetune -> its Config; complete at any time

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", completed(self.parts, {key: _get(self, key) for key in CHOOSING}))
        for key, declared in declared_keys(self):
            declared.check(key, _get(self, key))
        check_together(self)

    @classmethod
    def make(cls, method: str = "simclr", overrides: Mapping[str, Any] | None = None, *, preset: str = "") -> RunConfig:
        """The method's recipe, then its preset, then `overrides` (dotted keys, or nested in sections; text is parsed as the field's type).

        Without a preset: for own data `auto`, whose plan is made when the run starts; for a named source the preset named after it where the
        method has it (digits; cifar for cifar10 and cifar100), else paper.
        """
        from .registry import name_parts

        overrides = dotted(overrides)
        name_parts({"method.name": method, **overrides})
        return cls._resolved(method, overrides, preset)

    @classmethod
    def preset_of(cls, method: str, preset: str) -> RunConfig:
        """The preset of a method as it stands; names no code, so the method must be known already."""
        return cls._resolved(method, {}, preset)

    @classmethod
    def _resolved(cls, method: str, overrides: dict[str, Any], preset: str = "") -> RunConfig:
        """`make`, where the method may come from a file: it names no code."""
        from .registry import SOURCES, at_hand, known_code, load_method

        overrides |= at_hand(overrides)
        method = known_code(_one(overrides.pop("method.name", method)))
        preset = preset or _one(overrides.pop("method.preset", ""))
        file = load_method(method)
        source = _one(overrides.get("data.source", "digits"))
        preset = preset or next(
            (name for name in (source, source.rstrip("0")[:5]) if name in file.presets and name in ("digits", "cifar")),
            "paper" if source in SOURCES else AUTO,
        )
        if preset not in (AUTO, *file.presets):
            raise ConfigError("method.preset", f"got {preset!r}; {nearest(preset, (AUTO, *file.presets))}")
        budget = _one(overrides.get("train.budget", TrainConfig.budget))
        if preset != AUTO and budget not in (str(TrainConfig.budget), f"{TrainConfig.budget:g}"):
            raise ConfigError("train.budget", f"is what preset auto plans for; {preset} says itself how long it trains")
        chosen = start(file, overrides) if preset == AUTO else file.presets[preset]
        config = object.__new__(cls)  # checked once, when everything is set
        for section in dataclasses.fields(cls):
            value = section.default_factory() if section.default_factory is not dataclasses.MISSING else section.default
            object.__setattr__(config, section.name, value)
        object.__setattr__(config, "method", built("method", file.config, name=method, preset=preset))
        object.__setattr__(config, "views", dict(chosen.views or file.views))
        object.__setattr__(config, "parts", unread(overrides))
        if isinstance(chosen, Family):
            open_keys = left_open(file, [key for key, _ in declared_keys(config) if key.startswith("views.")], overrides)
            overrides.setdefault("train.planned", open_keys)
        if _one(overrides.get("data.channels", "0")) != "0":  # the recipe's are of RGB
            overrides |= {key: () for key in ("augment.mean", "augment.std") if key not in overrides}
        return config.replace({**file.recipe, **chosen.settings, **overrides})

    def replace(self, overrides: Mapping[str, Any]) -> RunConfig:
        """A copy with some keys, dotted or nested in sections, set to other values, checked like any other config."""
        overrides = dotted(overrides)
        plain = dict(declared_keys(self))
        for key, given in overrides.items():
            check_renamed(key, given)
        chosen = {key: plain[key].parse(key, overrides[key]) if key in overrides else _get(self, key) for key in CHOOSING}
        parts = dict(completed(self.parts, chosen))
        known = dict(declared_keys(self, parts))
        views = [key for key in known if key.startswith("views.")]
        kept = {
            "train.settled": [key for key in self.train.settled if key not in overrides],
            "train.planned": without(self.train.planned, views, overrides),
            **({"train.planned_for": ""} if "train.budget" in overrides else {}),
            "train.given": _still(self.train.given, overrides),
        }
        if _one(overrides.get("data.channels", "0")) not in ("0", str(self.data.channels)):  # what stands there is of RGB
            kept |= {"augment.mean": (), "augment.std": ()}
        overrides = {**kept, **overrides}
        changed: dict[str, dict[str, Any]] = {}
        for key, given in overrides.items():
            if key not in known:
                near = (
                    known
                    if key.startswith("eval.")
                    else [each for each in known if each.rpartition(".")[0] not in idle(parts, self.eval)]
                )
                mine = [each for each in near if each.startswith(f"{key}.")]
                if mine:
                    first = f"{key}.source" if f"{key}.source" in mine else mine[0]
                    raise ConfigError(key, f"is a section of keys, such as {first}; give that, or all of them as a mapping")
                raise ConfigError(key, f"unknown key; {nearest(key, near)}")
            section, _, name = key.rpartition(".")
            changed.setdefault(section, {})[name] = known[key].parse(key, given)
        top: dict[str, Any] = dict(changed.pop("", {}))
        views = dict(self.views)
        for section, values in changed.items():
            first, _, view = section.partition(".")
            if section in parts:
                parts[section] = built(section, dataclasses.replace, parts[section], **values)
            elif first == "views":
                views[view] = dataclasses.replace(views[view], **values)
            else:
                top[first] = built(first, dataclasses.replace, getattr(self, first), **values)
        return dataclasses.replace(self, **{"views": views, "parts": parts, **top})

    # ------------------------------------------------------------ text

    def flat(self) -> dict[str, Any]:
        """Every dotted key with its value."""
        return {key: _get(self, key) for key, _ in declared_keys(self)}

    def to_yaml(self) -> str:
        """The resolved config as YAML, grouped by section; `contray train --config` takes it."""
        import yaml

        tree: dict[str, Any] = {}
        for key, value in self.flat().items():
            *path, name = key.split(".")
            place = tree
            for part in path:
                place = place.setdefault(part, {})
            place[name] = list(value) if isinstance(value, tuple) else value
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)

    @classmethod
    def from_yaml(
        cls,
        text: str,
        overrides: Mapping[str, Any] | None = None,
        *,
        where: str = "the config",
        method: str = "",
        preset: str = "",
        encoder: bool = False,
    ) -> RunConfig:
        """Read what `to_yaml` wrote, or any YAML mapping of dotted or nested keys; `overrides`, `method` and `preset` win over it.

        encoder: only the encoder is wanted, so that evaluations which cannot be had here are left out.
        """
        import yaml

        try:
            tree = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{where} is no YAML: {' '.join(str(error).split())}") from None
        if not isinstance(tree, dict):
            raise UserError(f"{where} holds no mapping of keys such as train.epochs")
        from .registry import name_parts

        values, overrides = translated(dotted(tree)), dotted(overrides)
        name_parts({"method.name": method, **overrides})  # the caller's words; those of the text name nothing
        if encoder:
            values = without_absent(values)
        if preset or (method and Path(method).name != Path(_one(values.get("method.name", ""))).name):
            values |= {"method.preset": preset}
        if method:
            values |= {"method.name": method}
        if overrides and "train.settled" in values:
            values["train.settled"] = [key for key in values["train.settled"] if key not in overrides]
        if overrides and values.get("train.given"):
            values["train.given"] = _still(values["train.given"], overrides)
        if overrides and values.get("train.planned"):
            values["train.planned"] = without(
                values["train.planned"], [key for key in values if key.startswith("views.")], overrides
            )
            values |= {"train.planned_for": ""} if "train.budget" in overrides else {}
        return cls._resolved("simclr", {**values, **overrides})

    @classmethod
    def from_file(
        cls, path: Path, overrides: Mapping[str, Any] | None = None, *, method: str = "", preset: str = ""
    ) -> RunConfig:
        """`from_yaml` of a file that the user named with --config."""
        if not path.is_file():
            raise UserError(
                f"--config: {path} is a folder; give the config.yaml in it"
                if path.is_dir()
                else f"--config: there is no file {path}"
            )
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--config: {path} cannot be read as text ({error})") from None
        return cls.from_yaml(text, overrides, where=str(path), method=method, preset=preset)

    def total_steps(self, samples: int) -> int:
        """Optimiser steps of a run on so many training images; an epoch has full batches alone."""
        return self.train.steps or self.train.epochs * (samples // self.train.batch_size)

    @property
    def channels(self) -> int:
        """Channels of an image as the network is given it."""
        return self.data.channels or 3

    @property
    def unplanned(self) -> bool:
        """Whether a plan is still to fill what was left to it (preset auto)."""
        return self.method.preset == AUTO and not self.train.planned_for

    def fills(self, key: str) -> bool:
        """Whether the plan fills this key, or has filled it."""
        return key in self.train.planned or (key.startswith("views.") and "views" in self.train.planned)

    @property
    def idle(self) -> tuple[str, ...]:
        """Sections whose keys decide nothing that this run computes: of evaluations that it does not make."""
        return tuple(idle(self.parts, self.eval))

    def free(self, key: str) -> bool:
        """Whether a key may change where the run goes on."""
        return key in FREE or key.rpartition(".")[0] in self.idle

    def digest(self, *without: str, planned: bool = True, chars: int = 8) -> str:
        """Hex digits that name this config; sections or keys in `without` do not count.

        planned: whether what a plan filled counts; False: only that it did, so that the digest is the same before and after.
        """
        without = (*without, *self.idle, "train.given")  # the same name before and after they are read
        if self.method.preset != AUTO:
            without = (*without, "train.budget", "train.planned", "train.planned_for")
        elif not planned:
            without = (*without, *(set(self.train.planned) - FREE))
        # the same name on any hardware, and before and after what is measured
        asked = {**self.flat(), **{key: () if key in MEASURED else "auto" for key in self.train.settled}}
        kept = {
            NAMED.get(key, key): _default(key)
            if key in FREE
            else value  # else whoever is told to go on with such a key would begin anew
            for key, value in asked.items()
            if not any(key == skip or key.startswith(f"{skip}.") for skip in without) and not _came_later(key, value)
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=list).encode()).hexdigest()[:chars]

    def __repr__(self) -> str:
        """Method, preset, and the keys that differ from the preset's; all that can be told where the method's file is no longer what it was."""
        name, preset, said = Path(self.method.name).stem, self.method.preset, list[str]()
        try:
            usual = type(self)._resolved(self.method.name, {}, preset).flat()
        except UserError:
            usual, said = self.flat(), ["..."]
        own = {key: value for key, value in self.flat().items() if usual.get(key) != value and not key.startswith("method.name")}
        return f"RunConfig({', '.join([f'{name} {preset}', *(f'{key}={value!r}' for key, value in own.items()), *said])})"

    @property
    def run_name(self) -> str:
        """method-preset-hash of everything that decides what the run computes."""
        return f"{slug(Path(self.method.name).stem)}-{slug(self.method.preset)}-{self.digest('scale', 'track', planned=False)}"


def _came_later(key: str, value: Any) -> bool:
    """Whether a key of LATER names nothing at this value."""
    key = f"views.*.{key.rpartition('.')[2]}" if key.startswith("views.") else key
    return key in LATER and (key in FREE or value == LATER[key])


def _still(given: Iterable[str], overrides: Mapping[str, Any]) -> list[str]:
    """Those digests that `overrides` leave right: KEY=DIGEST, where neither KEY nor KEY_layout is among them."""
    keys = {key.removesuffix("_layout") for key in overrides}
    return [each for each in given if each.partition("=")[0] not in keys]


def _default(key: str) -> Any:
    section, _, name = key.partition(".")
    return EARLIER.get(key, getattr({"data": DataConfig, "train": TrainConfig}[section](), name))


def _get(config: RunConfig, key: str) -> Any:
    section, _, name = key.rpartition(".")
    if section in config.parts:
        return getattr(config.parts[section], name)
    value: Any = config
    for part in key.split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value


def _one(given: Any) -> str:
    """The text of an option that takes one value."""
    return " ".join(map(str, given)) if isinstance(given, (list, tuple)) else str(given)
