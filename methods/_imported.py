"""Weights that were trained elsewhere, in the form of a method's file: they encode, and train no further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._base import Method, MethodConfig, Paper, Preset, View, setting

PAPER = Paper(title="weights trained elsewhere", year=0, url="", contrasts="unknown: see method.layout and method.file")


@dataclass(frozen=True)
class Config(MethodConfig):
    layout: str = setting("", "layout of the file that the weights came in")
    file: str = setting("", "name of that file")
    sha256: str = setting("", "digest of that file")


VIEWS = {"image": View(crop=(0.0, 0.0), flip=0.0)}
RECIPE: dict[str, Any] = {}
PRESETS = {"paper": Preset("as imported")}


class Imported(Method):
    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        raise ValueError("name: imported weights are measured, not trained; `contray methods` lists what trains")
