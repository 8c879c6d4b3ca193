"""The preset `auto`: which keys of a run are left to a plan (contray.planning), and what of a method's own presets the plan starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..methods._base import View
from .sections import BackboneConfig

if TYPE_CHECKING:
    from .registry import MethodFile

AUTO = "auto"
FITTED = (  # by the rules, whatever a method's presets say
    "backbone.name", "backbone.stem", "backbone.width", "backbone.patch", "data.shorter_side", "data.workers", "optim.lr", "optim.warmup_epochs", "train.batch_size",
    "train.epochs", "train.steps", "train.norm_groups", "eval.every_epochs", "eval.online_limit", "scale.workers",
)  # fmt: skip
NETWORK = (  # which weights that are given tell
    *(f"backbone.{spec.name}" for spec in dataclasses.fields(BackboneConfig)), "backbone.timm.options", "backbone.torchvision.options",
)  # fmt: skip
_SHORT = {  # of a method that has no preset for short runs; as the built-in ones agree on
    "backbone.stem": "cifar", "optim.name": "adamw", "optim.lr": 6e-3, "optim.lr_scaling": "linear", "optim.weight_decay": 1e-4,
    "optim.weight_decay_end": -1.0, "optim.schedule": "cosine", "optim.lr_end": 0.0, "optim.warmup_epochs": 0.5, "optim.warmup_start": 0.0,
    "optim.clip": 0.0, "train.batch_size": 64, "train.norm_groups": 1, "train.steps": 600,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One of a method's families of settings: for `short` runs, for `small` images, or as in the `paper`. Settings stand on the recipe."""

    name: str
    preset: str
    settings: Mapping[str, Any]
    views: Mapping[str, View]


def families(file: MethodFile) -> dict[str, Family]:
    """The families of a method, from the shortest runs to the longest.

    short: its preset cifar_short, else digits with the views of cifar, since those of digits are for digits (small crops, where digits has none,
    are left out); without either, the paper's with what short runs of all methods agree on. small: its preset cifar. paper: the recipe.
    """
    presets, cifar, digits = file.presets, file.presets.get("cifar"), file.presets.get("digits")
    whole = {"views": file.views}
    if short := presets.get("cifar_short"):
        first = Family("short", "cifar_short", {**file.recipe, **short.settings}, short.views or file.views)
    elif digits:
        natural = (cifar.views if cifar else None) or file.views
        names = digits.views or natural
        kept = {name: natural[name] for name in names} if names.keys() <= natural.keys() else names
        guides = {f"method.{name}" for name in file.method.guides}  # whom it learns from is the user's to say
        own = {key: value for key, value in digits.settings.items() if key not in guides}
        first = Family("short", "digits", {**file.recipe, **own}, kept)
    else:
        vit = str(file.recipe.get("backbone.name", "")).startswith("vit")
        net = (
            {"backbone.name": "vit_mini", "backbone.width": 64}
            if vit
            else {"backbone.name": "resnet_small", "backbone.width": 16}
        )
        first = Family("short", "paper", {**file.recipe, **_SHORT, **net}, **whole)
    found = [first]
    if cifar:
        own = {
            key: value for key, value in cifar.settings.items() if not key.startswith("augment.")
        }  # CIFAR's pixel statistics are CIFAR's
        found.append(Family("small", "cifar", {**file.recipe, **own}, cifar.views or file.views))
    return {each.name: each for each in [*found, Family("paper", "paper", file.recipe, **whole)]}


def start(file: MethodFile, overrides: Collection[str]) -> Family:
    """The family that an `auto` config has until it is planned, with the views that `overrides` speak of."""
    names = {key.split(".")[1] for key in overrides if key.startswith("views.") and key.count(".") > 1}
    known = families(file)
    return next((each for each in known.values() if names <= each.views.keys()), known["short"])


def left_open(file: MethodFile, views: Iterable[str], given: Collection[str]) -> tuple[str, ...]:
    """The keys that a plan may fill: all that the families set and the rules fit, without those `given`. views: all keys views.*."""
    own = NETWORK if "train.init" in given else ()
    keys = sorted({*FITTED, *own, *(key for each in families(file).values() for key in each.settings)})
    return without(("views", *keys), views, given)


def without(planned: Iterable[str], views: Iterable[str], given: Collection[str]) -> tuple[str, ...]:
    """`planned` without the keys `given`. `views` in it stands for all keys views.*; where one of them is given, the others are named."""
    found = [key for each in planned for key in (views if each == "views" and any(key in given for key in views) else (each,))]
    return tuple(key for key in found if key not in given)
