"""Where a run goes on: rank 0 chooses the checkpoint, every rank has that very one, and it fits the config and the data."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from ..config import RunConfig
from ..errors import OnAllRanks, UserError
from ..storage.checkpoint import PATTERN, latest, read
from ..storage.folder import Storage
from .agreement import Ranks
from .checkpoints import Checkpoints
from .extend import LENGTH

LATER = ("pillow", "timm")  # libraries that fingerprints of before did not name
WAIT = 20.0  # seconds until a rank sees the file that rank 0 has read: listings of NFS are as old as that


class DoesNotFit(OnAllRanks):
    """A checkpoint of another config, of other data or library versions."""


def choose(ranks: Ranks, checkpoints: Checkpoints | None) -> dict[str, Any] | None:
    """The state of the newest whole checkpoint as rank 0 sees it, on every rank; None where there is none.

    On a path every rank reads the file, which shows that all see one place; of a store, which is everybody's, rank 0 alone fetches it, for all.
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

    if ranks.world > 1 and not checkpoints.storage.local:
        return ranks.first(lambda: own["state"] if newest() else None)
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
            found = read(checkpoints.storage, name)
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


def check_config(kept: str, config: RunConfig, ignored: Collection[str] = ()) -> None:
    """Refuse to go on under another config than `kept`, which a checkpoint was made with; keys that decide nothing may differ."""
    theirs = RunConfig.from_yaml(kept).flat()
    if theirs["data.augment_on"] == "auto" != config.data.augment_on:  # of a run from before there was this key
        theirs["data.augment_on"] = "cpu"
    ours = {key: value for key, value in config.flat().items() if not key.startswith(("scale.", "track.")) and key not in ignored}
    differing = [key for key, value in ours.items() if theirs.get(key, value) != value and not config.free(key)]
    if config.train.extend != "no":  # the driver has held the schedules of both lengths against each other
        differing = [key for key in differing if key not in LENGTH]
    if differing:
        longer = " (a finished run trains longer with --train.extend)" if set(differing) <= set(LENGTH) else ""
        raise DoesNotFit(
            f"the checkpoint was made with another config; it differs in {', '.join(differing)}. Give the run another --track.name, or ask for "
            f"{', '.join(f'{key} {theirs[key]}' for key in differing[:5])} as it has{longer}"
        )


def check_kept(folder: Storage, config: RunConfig, ignored: Collection[str]) -> None:
    """As `check_config`, before the run's record is touched: its config.yaml tells at no cost, and where that differs its checkpoint."""
    names = folder.names()
    if "config.yaml" not in names or not any(map(PATTERN.fullmatch, names)):
        return
    try:
        check_config(folder.read("config.yaml").decode(), config, ignored)
    except (UserError, UnicodeDecodeError):
        state = latest(folder)
        if state:
            check_config(state["config"], config, ignored)


def check_fits(
    state: Mapping[str, Any], config: RunConfig, fingerprint: Mapping[str, str], ignored: Collection[str] = ()
) -> None:
    """Refuse a checkpoint of another config, or, unless train.allow_changes, of other data or library versions."""
    check_config(state["config"], config, ignored)
    changed = [
        f"{key} ({state['fingerprint'].get(key, 'none')} -> {value})"
        for key, value in fingerprint.items()
        if state["fingerprint"].get(key) != value and not (key in LATER and key not in state["fingerprint"])
    ]
    if changed and not config.train.allow_changes:
        raise DoesNotFit(
            f"resuming would not be exact: {', '.join(changed)} changed since the checkpoint; --train.allow_changes true goes on all the same"
        )
