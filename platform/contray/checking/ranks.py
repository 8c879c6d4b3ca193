"""The same steps on several ranks: processes that are forked from one of their own, which has imported all this once.

`python -m contray.checking.ranks FOLDER` reads FOLDER/asked.json and writes FOLDER/WORLD-RANK.pt; a rank that fails writes what it raised.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..config.registry import name_code
from .places import Raised, raised
from .steps import small, some_steps

WORLDS = (3, 2)
PATIENCE = 30  # seconds that ranks wait for each other
LONGEST = 300  # seconds that all of them may take
Case = tuple[str, str]  # a method and a preset


class Asked:
    """Steps of these cases on 2 and on 3 ranks, begun at once; `results` waits for them."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = list(cases)
        self._folder = tempfile.TemporaryDirectory(prefix="contray-check-")
        self.folder = Path(self._folder.name)
        (self.folder / "asked.json").write_text(json.dumps(self.cases))
        root = str(Path(__file__).parents[2])  # also where contray runs from its sources
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))}
        with (self.folder / "said.txt").open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "contray.checking.ranks", str(self.folder)],
                env=env, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip

    def results(self) -> dict[tuple[Case, int, int], Any]:
        """By case, world and rank: what `some_steps` gave, or Raised; None where a rank ended without a word."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LONGEST)
        try:
            return {
                (case, world, rank): _read(self.folder / f"{i}-{world}-{rank}.pt")
                for i, case in enumerate(self.cases)
                for world in WORLDS
                for rank in range(world)
            }
        finally:
            self.close()

    def close(self) -> None:
        """End what still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # with its ranks
            self._process.wait()
        self._folder.cleanup()


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    found = torch.load(path, weights_only=True)
    return Raised(*found["raised"]) if "raised" in found else found


def _serve(folder: Path) -> None:
    """Fork the ranks. Nothing has been computed here yet, so that a fork takes no lock and no thread along."""
    for i, case in enumerate(json.loads((folder / "asked.json").read_text())):
        for world in WORLDS:
            children = []
            for rank in range(world):
                child = os.fork()
                if not child:
                    os._exit(_rank(folder, i, case, world, rank))
                children.append(child)
            for child in children:
                os.waitpid(child, 0)


def _rank(folder: Path, i: int, case: Case, world: int, rank: int) -> int:
    torch.set_num_threads(1)
    name, preset = case
    name_code(name)
    result: Any
    try:
        store = f"file://{folder}/store-{i}-{world}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=PATIENCE))
        result = some_steps(rank, world, small(name, preset))
    except BaseException as error:
        result = {"raised": astuple(raised(error, name, time.time()))}
    torch.save(result, folder / f"{i}-{world}-{rank}.pt")
    return 0


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
