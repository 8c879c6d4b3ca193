"""What a sweep keeps of itself: JSON files of our own, from which it goes on. What Ray Tune saves of a search is pickled, and is never read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


def begun(folder: Storage, config: RunConfig, space: Mapping[str, Any]) -> list[Begun]:
    """The trials on record in `folder`, in the order of their numbers. Raises UserError for a record that no trial of this space can have."""
    found = []
    for place in _trials(folder):
        if RECORD not in place.names():
            continue
        params = read(place, RECORD).get("params")
        if not isinstance(params, dict) or params.keys() != space.keys():
            raise UserError(
                f"--resume: {place.address}/{RECORD} is no record of a trial of this space; remove the folder {place.address}, or start anew"
            )
        check_code(config.replace(params))  # also refuses values that the space's keys cannot have
        found.append(Begun(place.name, params))
    return found


def mend(folder: Storage) -> None:
    """Remove what trials left damaged of their outcome, and say so: they are measured again from their checkpoints, not lost to the ranking."""
    kinds: dict[str, sealed.Kinds] = {ENDED: sealed.NUMBER, REPORTS: {"reports": list}}
    for place in _trials(folder):
        for name, kind in kinds.items():
            try:
                sealed.read(place, name, kind)
            except sealed.Damaged as error:
                place.remove(name)
                again = (
                    "the trial is measured again"
                    if name == ENDED
                    else "what the scheduler was told of the trial is not told again"
                )
                print(f"contray: {error}; {again}", flush=True)


def _trials(folder: Storage) -> list[Storage]:
    """The trials' folders, in the order of their numbers."""
    return [folder / name for name in folder.folders() if re.fullmatch(r"\d{5}", name)]


def read(folder: Storage, name: str) -> dict[str, Any]:
    """A record of a sweep or of a trial. Raises UserError where it is damaged."""
    try:
        return sealed.read(folder, name, KINDS) or {}
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
