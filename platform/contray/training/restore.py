"""Where a run goes on: rank 0 chooses the checkpoint, every rank reads that very file, and it fits the config and the data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

from .. import data, model
from ..config import RunConfig
from ..errors import OnAllRanks, UserError
from .agreement import Ranks
from .checkpoint import Checkpoints, Storage
from .extend import LENGTH

WAIT = 20.0  # seconds until a rank sees the file that rank 0 has read: listings of NFS are as old as that
FREE = {
    "data.workers",
    "data.cache_gb",
    "data.scratch",
    "data.root",
    "data.download",
    "train.keep",
    "train.settled",
    "train.checkpoint_seconds",
    "train.checkpoint_steps",
    "train.allow_changes",
    "train.extend",
    "train.on_nan",
    "train.on_collapse",
    "train.log_layers",
}


class DoesNotFit(OnAllRanks):
    """A checkpoint of another config, of other data or library versions."""


def choose(ranks: Ranks, checkpoints: Checkpoints | None) -> dict[str, Any] | None:
    """The state of the newest whole checkpoint as rank 0 sees it, on every rank; None where there is none.

    Raises UserError where none is whole, RanksDiffer naming the rank, its host and the file where one cannot read the same.
    """
    if checkpoints is None:
        return None
    own: dict[str, Any] = {}

    def newest() -> tuple[str, str] | None:
        checkpoints.storage.clear_drafts("step-", "best")
        found = checkpoints.newest()
        own["state"] = found.state if found else None
        return (found.name, found.digest) if found else None

    chosen = ranks.first(newest)
    if ranks.world == 1 or chosen is None:
        return own.get("state")
    problem = "" if ranks.rank == 0 else _read(checkpoints, *chosen, own)
    ranks.refuse(problem)
    return own["state"]


def _read(checkpoints: Checkpoints, name: str, digest: str, own: dict[str, Any]) -> str:
    """Read that checkpoint into `own`; what hinders, after WAIT seconds of trying."""
    where, tried = f"{checkpoints.storage.address}/{name}", time.monotonic()
    while True:
        try:
            found = checkpoints.read(name)
            if found.digest == digest:
                own["state"] = found.state
                return ""
            problem = f"finds another file than rank 0 at {where} (digest {found.digest[:12]} instead of {digest[:12]})"
        except UserError as error:
            problem = f"cannot read what rank 0 has read ({error})"
        except OSError as error:
            problem = f"cannot read what rank 0 has read ({where}: {error.strerror or error})"
        if time.monotonic() - tried > WAIT:
            return f"{problem}; scale.storage must be one place for all workers"
        time.sleep(0.2)


def check_before(folder: Storage, config: RunConfig, source: data.Source) -> None:
    """What `check_fits` refuses, before anything of the run in `folder` or of its MLflow run is written over.

    The checkpoint is read only where the run's config.yaml tells of another config, or where a finished run is to lose its end.
    """
    extends = config.train.extend != "no"
    if not extends and not _differing(_recorded(folder), config):
        return
    with warnings.catch_warnings():  # of a damaged one the workers tell, who go on from the one before it
        warnings.simplefilter("ignore")
        state = Checkpoints(folder).latest()
    if state is not None and extends:
        check_fits(state, config, data.fingerprint(source, config.data))
    elif state is not None:
        _check_config(state, config)


def _recorded(folder: Storage) -> Mapping[str, Any]:
    """The config that the run in `folder` was started with last; empty where there is none that can be read."""
    try:
        return RunConfig.from_yaml(folder.read("config.yaml").decode()).flat()
    except (OSError, UserError, ValueError):
        return {}


def _differing(theirs: Mapping[str, Any], config: RunConfig) -> list[str]:
    """The keys of two configs that no run can have both of; those that are left to the workers' hardware still are not known yet."""
    free = {*FREE, *model.open_keys(config)}
    if config.train.extend != "no":  # the driver has held the schedules of both lengths against each other
        free |= set(LENGTH)
    ours = {key: value for key, value in config.flat().items() if not key.startswith(("scale.", "track."))}
    return [key for key, value in ours.items() if theirs.get(key, value) != value and key not in free]


def _check_config(state: Mapping[str, Any], config: RunConfig) -> None:
    differing = _differing(RunConfig.from_yaml(state["config"]).flat(), config)
    if differing:
        raise DoesNotFit(
            f"the checkpoint was made with another config; it differs in {', '.join(differing)}. Give the run another --track.name"
        )


def check_fits(state: Mapping[str, Any], config: RunConfig, fingerprint: Mapping[str, str]) -> None:
    """Refuse a checkpoint of another config, or, unless train.allow_changes, of other data or library versions."""
    _check_config(state, config)
    changed = [
        f"{key} ({state['fingerprint'].get(key, 'none')} -> {value})"
        for key, value in fingerprint.items()
        if state["fingerprint"].get(key) != value
    ]
    if changed and not config.train.allow_changes:
        raise DoesNotFit(
            f"resuming would not be exact: {', '.join(changed)} changed since the checkpoint; --train.allow_changes true goes on all the same"
        )
