"""A run's own record of what it computed, step by step, to hold two runs against each other: `train.audit true`.

Each rank of each world that the run has had writes one file of JSON lines to `audit/` in the run's folder:

    {"started": unix seconds, "step": steps done before, "world": 2, "rank": 0, "pid": 4711, "host": "node-3"}
    {"step": 1, "ids": [sample ids of this rank's rows, in slot order], "loss": loss of the global batch, "at": unix seconds}
    ...

A fault tears off the last line at most. `history` puts the pieces together again.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..methods._ranks import from_first
from ..storage.folder import Storage

AUDIT = "audit"


class Audit:
    """Writes one rank's lines. A line is handed to the system at once: it outlives the process, not the machine."""

    def __init__(self, storage: Storage, step: int, world: int, rank: int, device: torch.device) -> None:
        check_audit(storage)
        folder = Path(storage.address) / AUDIT
        folder.mkdir(exist_ok=True)
        now = torch.tensor(time.time_ns(), device=device)
        (life,) = from_first(lambda: [now], [now])  # files of one life share its number
        self._file = (folder / f"{int(life)}-{rank}-of-{world}.jsonl").open("w", buffering=1)
        self._write(
            {"started": time.time(), "step": step, "world": world, "rank": rank, "pid": os.getpid(), "host": socket.gethostname()}
        )

    def step(self, step: int, ids: Sequence[int], loss: float) -> None:
        """What this rank did in the step that is now done."""
        self._write({"step": step, "ids": list(ids), "loss": loss, "at": time.time()})

    def close(self) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")


def check_audit(storage: Storage) -> None:
    """Lines are appended, which object stores cannot."""
    if not storage.local:
        raise ConfigError(
            "train.audit", f"appends to files, which {storage.address} cannot; use a local path or NFS for scale.storage"
        )


@dataclass
class Attempt:
    """One life of the worker group: what each of its steps computed, in the order of the steps."""

    started: float
    begin: int  # steps done before
    world: int
    pids: list[int] = field(default_factory=list)
    ids: dict[int, list[int]] = field(default_factory=dict)  # step -> sample ids of the global batch in slot order
    losses: dict[int, float] = field(default_factory=dict)
    at: dict[int, float] = field(default_factory=dict)


def attempts(storage: Storage) -> list[Attempt]:
    """All lives of a run's worker group, oldest first. A step counts for an attempt once every rank wrote it."""
    lives: dict[str, dict[int, tuple[dict[str, Any], dict[int, dict[str, Any]]]]] = {}
    for path in sorted((Path(storage.address) / AUDIT).glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]  # what follows the last newline is torn
        if lines:
            life = lives.setdefault(path.name.partition("-")[0], {})
            life[lines[0]["rank"]] = lines[0], {line["step"]: line for line in lines[1:]}
    found: list[Attempt] = []
    for ranks in lives.values():
        head, own = ranks[min(ranks)]
        attempt = Attempt(head["started"], head["step"], head["world"], [ranks[rank][0]["pid"] for rank in sorted(ranks)])
        if len(ranks) == head["world"]:
            for step in sorted(set.intersection(*(set(steps) for _, steps in ranks.values()))):
                attempt.ids[step] = [i for rank in range(head["world"]) for i in ranks[rank][1][step]["ids"]]
                attempt.losses[step], attempt.at[step] = own[step]["loss"], own[step]["at"]
        found.append(attempt)
    return found


@dataclass
class History:
    """The steps that the final weights come from: each attempt counts up to where the next one went on."""

    ids: dict[int, list[int]]
    losses: dict[int, float]
    again: int  # steps that were computed a second time, and gave way to the second
    worlds: list[int]
    skipped: list[int]


def history(lives: Sequence[Attempt]) -> History:
    """Puts a run together from the lives of its worker group."""
    ids: dict[int, list[int]] = {}
    losses: dict[int, float] = {}
    again = 0
    for life in lives:
        for step in [step for step in ids if step > life.begin]:
            del ids[step], losses[step]
            again += 1
        ids |= life.ids
        losses |= life.losses
    last = max(ids, default=0)
    return History(ids, losses, again, [life.world for life in lives], [step for step in range(1, last + 1) if step not in ids])
