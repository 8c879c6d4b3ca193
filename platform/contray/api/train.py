"""contray.train"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ..config import RunConfig, dotted
from ..config.registry import name_files
from ..errors import UserError

if TYPE_CHECKING:
    from ..training.result import Result, Results


@overload
def train(
    method: str | Path | RunConfig = "simclr",
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str = "",
    budget: str | float = "",
    seeds: Literal[1] = 1,
    yes: bool = False,
    quiet: bool = False,
    code: str | Sequence[str] = (),
    **keys: Any,
) -> Result: ...


@overload
def train(
    method: str | Path | RunConfig = "simclr",
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str = "",
    budget: str | float = "",
    seeds: int,
    yes: bool = False,
    quiet: bool = False,
    code: str | Sequence[str] = (),
    **keys: Any,
) -> Results: ...


def train(
    method: str | Path | RunConfig = "simclr",
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str = "",
    budget: str | float = "",
    seeds: int = 1,
    yes: bool = False,
    quiet: bool = False,
    code: str | Sequence[str] = (),
    **keys: Any,
) -> Result | Results:
    """Pretrain and measure what it learnt. An unfinished run of the same config goes on exactly where it stopped.

        result = contray.train("simclr", {"data.source": "photos/", "train.epochs": 50})
        result = contray.train("simclr", data={"source": "photos/"}, train={"epochs": 50})  # the same
        result  # shows the table of its results
        encoder = contray.load(result)

    method: a name of `contray methods`, your own .py file, a config.yaml that a run kept, or a RunConfig. overrides, keys: what differs from the
    preset, as dotted keys or nested in sections (`contray train --help-all` has them all). preset: named settings of the method; of your own data
    without one: auto, fitted to data, machine and `budget` ("30m", "2h", or minutes). yes: may take more than a day on a CPU.
    seeds: how many runs, which differ in their seed alone; more than one give a table with mean and spread.
    quiet: no progress bar. code: your own .py files that a config.yaml names.
    """
    from ..training.launch import launch
    from ..training.result import Results
    from ..training.seeds import launch_seeds

    given = {**dotted(overrides), **dotted(keys), **({} if budget in ("", None) else {"train.budget": minutes(budget)})}
    config = config_of(method, given, preset, code)
    if not isinstance(seeds, int) or seeds < 1:
        raise UserError(f"seeds: got {seeds!r}, must be a whole number, at least 1")
    return launch(config, quiet=quiet, yes=yes) if seeds == 1 else Results(launch_seeds(config, seeds, quiet=quiet, yes=yes))


def minutes(budget: str | float, key: str = "budget") -> float:
    """Minutes of a time: 90s, 30m, 2h, 1.5h, a plain number of minutes. Raises UserError, with `key` before it."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|)", str(budget).strip().lower())
    if not match or not float(match[1]):
        raise UserError(f"{key}: got {budget!r}, must be a time such as 90s, 30m or 2h")
    return float(match[1]) * {"s": 1 / 60, "h": 60.0}.get(match[2][:1], 1.0)


def config_of(method: str | Path | RunConfig, overrides: Mapping[str, Any], preset: str, code: str | Sequence[str]) -> RunConfig:
    """The config of a run, by what people name one."""
    name_files(code)
    if isinstance(method, RunConfig):
        if preset:
            raise UserError(f"preset: {preset} goes with a method's name; a RunConfig has one ({method.method.preset})")
        return method.replace(overrides)
    if not isinstance(method, (str, Path)):
        raise UserError(f"train: got {type(method).__name__}; give a method's name, a .py or .yaml file, or a RunConfig")
    if Path(method).suffix in (".yaml", ".yml"):
        return RunConfig.from_file(Path(method), overrides, preset=preset)
    return RunConfig.make(str(method), overrides, preset=preset)
