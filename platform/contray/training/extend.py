"""`train.extend`: a finished run goes on for more steps, and whether it then is what it would have been had they been asked for at once."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .. import model
from ..config import RunConfig
from ..errors import ConfigError
from ..methods._base import Clock, Method
from ..model import optim

LENGTH = ("train.epochs", "train.steps")  # all that an extension may change


def check_extension(state: Mapping[str, Any], config: RunConfig, samples: int, finished: bool) -> tuple[int, int]:
    """The steps that the run whose newest checkpoint is `state` has and is to have. Raises UserError where it cannot go on so.

    One that is not `finished` may have all its steps: it died while it was measured.

    "exact" asks that every schedule has had, over the steps that are done, the values that it has in the longer run; "anyway" does not.
    """
    theirs = RunConfig.from_yaml(state["config"])
    done, before, total = int(state["step"]), theirs.total_steps(samples), config.total_steps(samples)
    if total < done or (total == done and finished):
        keys = "train.steps, which wins over train.epochs" if config.train.steps else " or ".join(LENGTH)
        raise ConfigError(
            "train.extend",
            f"{config.track.name} has {done} steps already, and {total} were asked for; raise {keys}",
        )
    if total == before and theirs.train.extend == "anyway" and config.train.extend == "exact":
        raise ConfigError(
            "train.extend",
            f"{config.track.name} is on its way to {total} steps by --train.extend anyway, which does not become exact; say anyway again",
        )
    if state.get("inexact") and config.train.extend == "exact":
        raise ConfigError(
            "train.extend",
            f"{config.track.name} went on by --train.extend anyway before, which does not become exact; say anyway again",
        )
    differing = list(_differing(config, model.build(config, samples), samples, before, total, done)) if total != before else []
    if differing and config.train.extend == "exact":
        raise ConfigError(
            "train.extend",
            f"a run of {total} steps would have had other values in its first {done} steps, of {', '.join(differing)}; "
            "--train.extend anyway goes on all the same: it is then no run of that length",
        )
    return done, total


def extends_exactly(config: RunConfig, method: Method, samples: int) -> bool:
    """Whether a run that is done could go on to twice its length as one that had been asked for it at once."""
    total = config.total_steps(samples)
    return not any(_differing(config, method, samples, total, 2 * total, total))


def _differing(config: RunConfig, method: Method, samples: int, before: int, total: int, done: int) -> Iterator[str]:
    """The schedules whose values over the first `done` steps depend on whether the run has `before` or `total` steps."""
    size, epoch = config.train.batch_size, samples // config.train.batch_size * config.train.batch_size

    def clocks(step: int) -> tuple[Clock, Clock]:
        return Clock(step * size, before * size, epoch, size), Clock(step * size, total * size, epoch, size)

    schedules = {
        f"the rate (optim.schedule {config.optim.schedule})": lambda clock: optim.learning_rate(config, clock),
        "the weight decay (optim.weight_decay_end)": lambda clock: optim.weight_decay(config, clock),
    }
    if next(method.ema_pairs(), None) is not None:
        schedules["the averaged network's momentum"] = method.ema_momentum
    for name, schedule in schedules.items():
        if any(schedule(short) != schedule(long) for short, long in map(clocks, range(done))):
            yield name
    yield from _readers(method)


def _readers(method: Method) -> Iterator[str]:
    """Where else the method's own files ask how long the run is; values that they make of it are not known here."""
    modules = dict.fromkeys(cls.__module__ for cls in type(method).__mro__ if issubclass(cls, Method) and cls is not Method)
    for module in modules:
        for function in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
            if not isinstance(function, ast.FunctionDef) or function.name == "ema_momentum":
                continue
            reads = {
                node.attr
                for node in ast.walk(function)
                if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("clock")
            }
            if reads & {"fraction", "total"}:
                yield f"{module.rpartition('.')[2]}.{function.name} (it reads the clock's {' and '.join(sorted(reads & {'fraction', 'total'}))})"
