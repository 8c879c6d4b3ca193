"""What a sweep keeps of itself: JSON files of our own, from which it goes on. What Ray Tune saves of a search is pickled, and is never read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..config.registry import check_code
from ..errors import UserError
from ..storage import sealed
from ..storage.folder import Storage
from ..training.records import ENDED
from .trial import RECORD, REPORTS

KINDS: sealed.Kinds = {"run_id": str, "params": dict, "finished": bool, "search": dict, "version": int, "config": str}


@dataclass(frozen=True)
class Begun:
    """A trial that the sweep has begun, or will: its folder's name and its parameters."""

    name: str
    params: Mapping[str, Any]


def name_of(number: int) -> str:
    """The folder of a sweep's trial."""
    return f"{number:05d}"


def drawn(space: Mapping[str, Any], samples: int, seed: int) -> list[Begun]:
    """All trials of a grid, a population or a plain random search: every grid `samples` times, random keys drawn anew for each."""
    import numpy as np
    from ray.tune.search.variant_generator import generate_variants

    rng = np.random.RandomState(seed)
    variants = (
        spec["config"] for _ in range(samples) for _, spec in generate_variants({"config": dict(space)}, random_state=rng)
    )
    return [Begun(name_of(number), {key: plain(value) for key, value in each.items()}) for number, each in enumerate(variants)]


def plain(value: Any) -> Any:
    """A number of numpy's as Python's, which JSON knows."""
    return value.item() if hasattr(value, "item") else value


def begun(folder: Path, config: RunConfig, space: Mapping[str, Any]) -> list[Begun]:
    """The trials on record in `folder`, in the order of their numbers. Raises UserError for a record that no trial of this space can have."""
    found = []
    for record in sorted(folder.glob(f"[0-9][0-9][0-9][0-9][0-9]/{RECORD}")):
        params = read(record).get("params")
        if not isinstance(params, dict) or params.keys() != space.keys():
            raise UserError(
                f"--resume: {record} is no record of a trial of this space; remove the folder {record.parent}, or start anew"
            )
        check_code(config.replace(params))  # also refuses values that the space's keys cannot have
        found.append(Begun(record.parent.name, params))
    return found


def mend(folder: Path) -> None:
    """Remove what trials left damaged of their outcome, and say so: they are measured again from their checkpoints, not lost to the ranking."""
    kinds: dict[str, sealed.Kinds] = {ENDED: sealed.NUMBER, REPORTS: {"reports": list}}
    for path in sorted(path for name in kinds for path in folder.glob(f"[0-9][0-9][0-9][0-9][0-9]/{name}")):
        try:
            sealed.read(Storage(str(path.parent)), path.name, kinds[path.name])
        except sealed.Damaged as error:
            path.unlink()
            again = (
                "the trial is measured again"
                if path.name == ENDED
                else "what the scheduler was told of the trial is not told again"
            )
            print(f"contray: {error}; {again}", flush=True)


def read(path: Path) -> dict[str, Any]:
    """A record of a sweep or of a trial. Raises UserError where it is damaged."""
    try:
        return sealed.read(Storage(str(path.parent)), path.name, KINDS) or {}
    except sealed.Damaged as error:
        raise UserError(f"{error}; remove it, or start anew without --resume") from None


def differing(text: str, config: RunConfig) -> list[str]:
    """The keys that decide what trials compute and that `config` has otherwise than the config on record, with both values."""
    before, now = RunConfig.from_yaml(text).flat(), config.flat()
    return [
        f"{key} ({before.get(key)} -> {now.get(key)})"
        for key in {**before, **now}
        if not config.free(key) and not key.startswith(("scale.", "track.")) and before.get(key) != now.get(key)
    ]


def places(known: Sequence[Begun]) -> Callable[[Any], str]:
    """Gives each of Tune's trials its folder's name: those of `known` first, in their order, then new numbers."""
    last = max((int(each.name) for each in known), default=-1)
    names: Iterator[str] = itertools.chain([each.name for each in known], map(name_of, itertools.count(last + 1)))
    given: dict[str, str] = {}

    def place_of(trial: Any) -> str:
        if trial.trial_id not in given:  # Tune asks for the name and for the folder
            given[trial.trial_id] = next(names)
        return given[trial.trial_id]

    return place_of
