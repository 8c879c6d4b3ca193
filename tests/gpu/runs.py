"""What the checks on a GPU share: runs of the real loop, how far two lie apart, the report."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from contray import data
from contray.config import RunConfig
from contray.storage.folder import Storage
from contray.training import loop

SEVEN = ["simclr", "moco", "dino", "mae", "barlow_twins", "swav", "byol"]
EXACT = 1e-9  # relatively, in float64
TINY = {
    "train.batch_size": 32, "train.log_every": 1, "train.checkpoint_seconds": 1e6, "data.renderings": 1, "data.workers": 0,
    "data.augment_on": "cpu", "eval.every_epochs": 0, "eval.final": (),
}  # fmt: skip


@dataclass
class Report:
    """What was found, a row each: check, case, value, whether it is right."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, check: str, case: str, value: Any, ok: bool | None = None) -> None:
        self.rows.append({"check": check, "case": case, "value": value, "ok": ok})
        shown = f"{value:.3g}" if isinstance(value, float) else value
        print(f"{ {True: 'ok  ', False: 'FAIL', None: '    '}[ok] } {check:9} {case:40} {shown}", flush=True)

    @contextlib.contextmanager
    def case(self, check: str, case: str) -> Iterator[None]:
        """An error within it fails the case, not the script."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.add(check, case, f"{type(error).__name__}: {str(error)[:300]}", False)


class Told(loop.Listener):
    """Keeps the losses, and ends the process at a step as if it were killed."""

    def __init__(self, dies: int = 0) -> None:
        self.loss: dict[int, float] = {}
        self.dies = dies

    def log(self, step, values):
        if "loss" in values:
            self.loss[step] = values["loss"]
        if step == self.dies:
            raise Killed


class Killed(Exception):
    pass


@dataclass
class Result:
    loss: dict[int, float]
    state: dict[str, torch.Tensor]


def config_of(method: str, device: str, precision: str, steps: int, **other: Any) -> RunConfig:
    keys = {key.replace("__", "."): value for key, value in other.items()}
    keys |= {"method.prototypes": 24} if method == "swav" else {}  # no more than the batch
    return RunConfig.make(
        method, TINY | {"train.device": device, "train.precision": precision, "train.steps": steps} | keys, preset="digits"
    )


def run(config: RunConfig, storage: Storage | None = None, dies: int = 0) -> Result:
    told = Told(dies)
    outcome = loop.train(config, data.open_source(config.data), storage, told)
    return Result(told.loss, {name: value.detach().cpu() for name, value in outcome.method.state_dict().items()})


def loss_gap(one: Result, other: Result) -> float:
    """The largest relative difference of losses in the steps of `one`; NaN counts as infinite."""
    gaps = [abs(one.loss[k] - other.loss[k]) / max(abs(other.loss[k]), 1e-12) for k in one.loss]
    return max(gap if gap == gap else float("inf") for gap in gaps)


def state_gap(one: Result, other: Result) -> float:
    """The largest difference of tensors, in units of a tensor's largest value, at least 1; whole numbers must be equal."""
    worst = 0.0
    for name, value in other.state.items():
        mine = one.state[name]
        if not value.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(mine, value) else float("inf"))
        elif value.numel():
            gap = float((mine.double() - value.double()).abs().max()) / max(1.0, float(value.abs().max()))
            worst = max(worst, gap if gap == gap else float("inf"))
    return worst


def equal(one: Result, other: Result) -> bool:
    same = all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    return same and all(value == other.loss[step] for step, value in one.loss.items())


@dataclass
class Context:
    """What every check is given."""

    device: str
    quick: bool
    report: Report
    pool: ProcessPoolExecutor  # for references on the CPU

    @property
    def names(self) -> list[str]:
        return ["simclr", "moco", "mae"] if self.quick else SEVEN
