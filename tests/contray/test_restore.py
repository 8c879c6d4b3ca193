"""Where a run goes on: of an object store one rank fetches the checkpoint for all, bit for bit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from contray.storage.checkpoint import seal_of
from contray.storage.folder import Storage
from contray.training.agreement import Ranks
from contray.training.checkpoints import Checkpoints
from contray.training.restore import choose
from tests.object_store import serving
from tests.ranks import run_ranks


def chosen(rank: int, world: int, address: str, variables: dict[str, str]) -> dict[str, Any]:
    """What a rank goes on with, and how often it asked the store for a checkpoint."""
    os.environ.update(variables)
    reads: list[str] = []
    real = Storage.read

    def counted(self: Storage, name: str) -> bytes:
        reads.extend([name] if name.startswith("step-") else [])
        return real(self, name)

    Storage.read = counted  # pyright: ignore[reportAttributeAccessIssue]  # this process ends with the test
    state = choose(Ranks(), Checkpoints(Storage(address)))
    return {"state": state, "reads": reads}


def test_one_rank_asks_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as store:
        (tmp_path / "r").mkdir()
        state = {"method": {"w": torch.randn(1000, generator=torch.Generator().manual_seed(0))}, "config": "x", "step": 7}
        checkpoints = Checkpoints(Storage(str(tmp_path / "r")))
        checkpoints.save(7, state, wait=True)
        checkpoints.join()
        assert seal_of(next((tmp_path / "r").glob("step-*.pt")).read_bytes())
        address = store.take(tmp_path)
        found = run_ranks(chosen, 2, f"{address}/r", dict(os.environ))
    assert [len(each["reads"]) for each in found] == [1, 0]
    for each in found:
        assert torch.equal(each["state"]["method"]["w"], state["method"]["w"])
        assert each["state"]["step"] == 7


def test_without_a_checkpoint_all_begin(tmp_path: Path) -> None:
    with serving() as store:
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "x").write_text("")
        found = run_ranks(chosen, 2, f"{store.take(tmp_path)}/empty", dict(os.environ))
    assert [each["state"] for each in found] == [None, None]
