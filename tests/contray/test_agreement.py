"""Ranks agree or end by name: which checkpoint, which data, which limit, which images are broken, and every bit of the state."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contray import RunConfig, data, model
from contray.errors import OnAllRanks, UserError
from contray.model import optim
from contray.model.sharding import Sharded
from contray.storage.checkpoint import latest
from contray.storage.folder import Storage
from contray.training import agreement, loop, restore
from contray.training.agreement import Ranks, State
from contray.training.checkpoints import Unsaved
from contray.training.clustering import embed
from contray.training.loop import Listener, train
from contray.training.step import LIMIT, Stepper
from tests.ranks import run_ranks

from .test_loop import TINY, run, tiny

FOLDERS = ("shared", "stale", "spoilt", "bare", "limited")


def config(**keys: Any) -> RunConfig:
    return tiny("simclr", train__precision="fp32", train__norm_groups=1, train__batch_size=32, train__keep=9, **keys)


def ends(function: Callable[[], Any]) -> tuple[str, bool, Any]:
    """How it ends: in words, whether no new worker is worth a try, and what it gave."""
    try:
        return "", False, function()
    except UserError as error:
        return str(error), isinstance(error, OnAllRanks), None


class LosesSight(Listener):
    """Spoils the state of one rank, as a bad cable might."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step, self.clip = rank, step, optim.clip_gradients

    def __enter__(self) -> None:
        calls = iter(range(1, 100))

        def clip(options: Any, params: Any) -> Any:
            if next(calls) == self.step and self.rank == 1:
                params[-1].data[0].add_(1e-6)
            return self.clip(options, params)

        optim.clip_gradients = clip

    def __exit__(self, *error: object) -> None:
        optim.clip_gradients = self.clip


def scenes(rank: int, world: int, place: str) -> dict[str, Any]:
    """All scenes in one life of the ranks: whoever ends on all ranks leaves the group as it was."""
    restore.WAIT = 0.3
    source = data.open_source(config().data)
    shared, stale, spoilt, bare, limited = (Storage(f"{place}/{name}") for name in FOLDERS)
    seen: dict[str, Any] = {}

    undisturbed = train(config(train__steps=5), source).method.state_dict()
    train(config(train__steps=4, train__checkpoint_steps=2), source, shared)
    longer = config(train__steps=4, train__checkpoint_steps=2)
    Ranks().all(None)
    if rank == 0:
        (Path(stale.address) / "step-000000002.pt").write_bytes(shared.read("step-000000002.pt"))
        (Path(spoilt.address) / "step-000000002.pt").write_bytes(shared.read("step-000000002.pt"))
        content = bytearray(shared.read("step-000000004.pt"))
        content[len(content) // 2] ^= 1
        (Path(spoilt.address) / "step-000000004.pt").write_bytes(content)
        (Path(limited.address) / LIMIT).write_text('{"given": 0, "limit": 8}')
    Ranks().all(None)
    seen["stale"] = ends(lambda: train(longer, source, shared if rank == 0 else stale))
    seen["spoilt"] = ends(lambda: train(longer, source, shared if rank == 0 else spoilt))

    real = loop.data.fingerprint
    loop.data.fingerprint = lambda *given: real(*given) | ({"data": "another"} if rank == 1 else {})
    seen["data"] = ends(lambda: train(longer, source))
    loop.data.fingerprint = real

    with LosesSight(rank, 3):
        seen["state"] = ends(lambda: train(config(train__steps=9, train__checkpoint_steps=2), source, bare))
    groups = config().replace({"train.norm_groups": 4})
    seen["limit"] = Stepper(groups, model.build(groups, 64), rank, world, limited if rank == 0 else bare).limit
    seen["kept"] = bare.names()

    # Images that only rank 1 meets: its half of each batch holds all that are broken in its copy.
    photos = f"{place}/photos-{rank}"
    keys = {"data__source": photos, "data__memory_gb": 0.0, "data__max_broken": 0.2, "train__steps": 3}
    few = config(**keys)
    opened = data.open_source(few.data)
    same, loop.same_data = loop.same_data, lambda *given: None
    seen["broken"] = sorted(train(few, opened, Storage(f"{place}/few")).broken)
    seen["too many"] = ends(lambda: train(few.replace({"data.max_broken": 0.05}), opened))
    cached = few.replace({"data.memory_gb": 1.0})
    seen["prepared"] = sorted(train(cached, data.open_source(cached.data)).broken)
    loop.same_data = same

    deep = config_of_deepcluster()
    seen["embedded"] = embed(deep, model.build(deep, len(source.train)).train(), source, torch.device("cpu"), Ranks())
    clustered = train(deep, source).method
    seen["assignments"] = clustered.state_dict()["assignments"]
    seen["equal"] = all(torch.equal(value, Ranks().first(lambda value=value: value)) for value in undisturbed.values())
    return seen


def config_of_deepcluster() -> RunConfig:
    keys = {
        **TINY,
        "views.view.size": 16,
        "train.batch_size": 32,
        "train.norm_groups": 1,
        "train.steps": 1,
        "train.precision": "fp32",
    }
    small = {"method.clusters": 5, "method.pca": 4, "method.iterations": 2, "eval.batch_size": 100}
    return RunConfig.make("deepcluster", {**keys, **small}, preset="digits")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    place = tmp_path_factory.mktemp("ranks")
    for name in (*FOLDERS, "few"):
        (place / name).mkdir()
    rng = np.random.default_rng(0)
    for rank in (0, 1):
        (place / f"photos-{rank}").mkdir()
    for i in range(64):
        for rank in (0, 1):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(place / f"photos-{rank}" / f"{i:02d}.png")
        if i % 8 == 0:
            (place / "photos-1" / f"{i:02d}.png").write_bytes(b"no image")
    return run_ranks(scenes, 2, str(place)), place


HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (
            "stale",
            [
                f"rank 1 on {HOST} cannot read what rank 0 has read",
                "stale/step-000000004.pt",
                "must be one place for all workers",
            ],
        ),
        (
            "spoilt",
            [f"rank 1 on {HOST} cannot read what rank 0 has read", "spoilt/step-000000004.pt: it is damaged, its digest differs"],
        ),
        ("data", [f"rank 1 on {HOST} sees other data or libraries than rank 0 (data another instead of "]),
        ("state", [f"rank 1 on {HOST} has another method.projector", "than rank 0 after step 4; nothing of it is saved"]),
        ("too many", ["data.source: ", " of 64 images are broken, more than data.max_broken 0.05 allows"]),
    ],
)
def test_what_differs_ends_the_run_on_all_ranks_by_name(
    scene: str, words: list[str], seen: tuple[list[dict[str, Any]], Path]
) -> None:
    first, second = (rank[scene] for rank in seen[0])
    assert first == second
    told, for_good, _ = first
    assert for_good, "a new worker group would meet it again"
    assert "\n" not in told
    for word in words:
        assert word in told


def test_what_differs_is_not_saved(seen: tuple[list[dict[str, Any]], Path]) -> None:
    assert seen[0][0]["kept"] == ["step-000000002.pt"], "the ranks differ after step 3"


def test_the_limit_of_rows_is_what_rank_0_reads(seen: tuple[list[dict[str, Any]], Path]) -> None:
    assert [rank["limit"] for rank in seen[0]] == [8, 8]


def test_broken_images_are_the_union_over_ranks(seen: tuple[list[dict[str, Any]], Path]) -> None:
    (first, second), place = seen
    assert first["broken"] == second["broken"]
    assert first["broken"]
    assert set(first["broken"]) <= set(range(0, 64, 8))
    state = latest(Storage(str(place / "few")))
    assert state is not None
    assert sorted(state["broken"]) == first["broken"]
    assert first["prepared"] == second["prepared"] == list(range(0, 64, 8)), "found before the first step"


def test_ranks_embed_their_shares_as_one_rank_embeds_all(seen: tuple[list[dict[str, Any]], Path]) -> None:
    (first, second), _ = seen
    deep = config_of_deepcluster()
    source = data.open_source(deep.data)
    whole = embed(deep, model.build(deep, len(source.train)).train(), source, torch.device("cpu"), Ranks())
    assert torch.equal(first["embedded"], whole)
    assert second["embedded"].shape == (0, whole.shape[1])
    alone = train(deep, source).method.state_dict()["assignments"]
    assert torch.equal(first["assignments"], alone)
    assert torch.equal(second["assignments"], alone)


def test_ranks_hold_the_same_bits(seen: tuple[list[dict[str, Any]], Path]) -> None:
    assert all(rank["equal"] for rank in seen[0])


# ---------------------------------------------------------------- the checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_the_checksum_sees_every_bit_and_every_place(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PIECE", 64)  # 300 elements are several pieces
    outcome, _ = run(tiny("simclr", train__steps=1))
    state = State(Ranks(), outcome.method, Sharded(torch.optim.SGD(outcome.method.parameters()), False))
    values = torch.arange(300).square().remainder(97).remainder(2 if dtype == torch.bool else 97).to(dtype)

    def checksum(tensor: torch.Tensor) -> int:
        (found,) = state._checksums([tensor]).tolist()
        return found

    found = {checksum(values)}
    for place in (0, 1, 63, 64, 299):
        other = values.clone().view(torch.uint8)
        other[place * values.element_size()] ^= 1
        found.add(checksum(other.view(dtype)))
    exchanged = values.clone()
    unequal = int((values[1:] != values[:-1]).nonzero()[0])
    exchanged[[unequal, unequal + 1]] = exchanged[[unequal + 1, unequal]]
    found |= {checksum(exchanged), checksum(values.roll(64))}
    assert len(found) == 8
    assert checksum(values.reshape(3, 100)) == checksum(values)
    assert checksum(values[:1].reshape(())) == checksum(values[:1])


def test_names_are_those_of_the_state() -> None:
    outcome, _ = run(tiny("simclr", train__steps=1))
    optimizer = torch.optim.SGD(outcome.method.parameters(), lr=0.1, momentum=0.9)
    for param in outcome.method.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    names = list(State(Ranks(), outcome.method, Sharded(optimizer, False)).tensors())
    assert "method.backbone.conv1.weight" in names
    assert "optimizer.momentum_buffer of backbone.conv1.weight" in names


def test_what_all_ranks_met_ends_a_run_and_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from contray.training import ray_train

    def work(error: UserError) -> Callable[..., Any]:
        def raises(*given: Any) -> Any:
            raise error

        return raises

    monkeypatch.setattr("contray.methods._ranks.world_size", lambda: 2)
    monkeypatch.setattr("ray.train.get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 2))
    settings = {"folder": "/nowhere", "board": None, "job": None}
    for error in (agreement.RanksDiffer("a"), agreement.DataRefused("a"), Unsaved("a"), restore.DoesNotFit("a")):
        monkeypatch.setattr(ray_train, "work", work(error))
        assert ray_train._train_function(settings) == {"refused": "a"}
    monkeypatch.setattr(ray_train, "work", work(UserError("one rank's own")))
    with pytest.raises(UserError, match="one rank's own"):
        ray_train._train_function(settings)
