"""The order of blocks: a permutation of all samples each epoch, window by window, and of no number of workers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contray.config.sections import DataConfig
from contray.data import GlobalBatches, loader, open_source, rows, shards
from contray.data.ahead import upcoming
from contray.data.order import Blocks
from contray.errors import ConfigError, UserError
from contray.methods._base import View

SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=9).filter(any)
VIEWS = {"view": View(size=4)}


@settings(derandomize=True, deadline=None, max_examples=60)
@given(SIZES, st.integers(1, 4), st.integers(0, 2**40), st.integers(0, 5))
def test_an_epoch_of_blocks_is_a_permutation_whose_windows_hold_their_shards_alone(
    sizes: list[int], window: int, seed: int, epoch: int
) -> None:
    starts = np.cumsum([0, *sizes])
    order, n = Blocks(seed, starts, window), int(starts[-1])
    found = order.ids(epoch, 0, n)
    assert sorted(found.tolist()) == list(range(n))
    place = 0
    for k in range(order.windows(epoch)):
        members = {i for shard in order.shards(epoch, k) for i in range(starts[shard], starts[shard + 1])}
        assert set(found[place : place + len(members)].tolist()) == members
        assert {order.window_at(epoch, p) for p in range(place, place + len(members))} == {k}
        place += len(members)
    assert place == n
    other = Blocks(seed, starts, window)  # asked for in another way, as another rank or a resumed run does
    assert [int(other.ids(epoch, p, p + 1)[0]) for p in reversed(range(n))] == found[::-1].tolist()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    starts = np.arange(0, 101, 5)
    orders = [tuple(Blocks(seed, starts, 4).ids(epoch, 0, 100)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert len({tuple(Blocks(0, starts, 4).shards(epoch, 0)) for epoch in range(5)}) > 1


def test_what_comes_next_is_the_next_window_that_is_trained_on() -> None:
    order, held = Blocks(3, np.arange(0, 61, 10), 2), shards.Shards(np.arange(0, 61, 10), np.array([1, 1, 0, 1, 1, 1]))
    assert list(upcoming(held, order, 60, 0, 1)) == [shard for k in (1, 2) for shard in order.shards(0, k) if shard != 2]
    assert list(upcoming(held, order, 40, 0, 1)) == [
        shard for e, k in ((0, 1), (1, 0)) for shard in order.shards(e, k) if shard != 2
    ]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 images in 10 shards, all of which are copied."""
    monkeypatch.setattr(rows, "HELD", 0)
    monkeypatch.setattr(rows, "SMALLEST", 1)
    images = [cv2.imencode(".png", np.full((4, 4, 3), i, np.uint8))[1].tobytes() for i in range(40)]
    pq.write_table(pa.table({"image": images, "label": [i % 2 for i in range(40)]}), tmp_path / "train.parquet", row_group_size=4)
    return tmp_path / "train.parquet"


def opened(table: Path, **keys: object) -> GlobalBatches:
    config = DataConfig(
        source=str(table), memory_gb=0.0, scratch=str(table.parent / "scratch"), shuffle="blocks", window=3, **keys
    )  # pyright: ignore[reportArgumentType]
    return GlobalBatches(open_source(config).train, VIEWS, strength=0.0, batch_size=8, seed=1, window=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_of_any_number_draw_what_one_draws_and_the_held_out_tenth_keeps_its_shards(table: Path, workers: int) -> None:
    batches = opened(table)
    held = batches.split.shards()
    assert held is not None
    assert int(held.starts[-1]) == len(batches.split) < 40
    names = [int(batches.split.key(i).split()[1]) // 4 for i in range(len(batches.split))]
    assert names == [held.of(i) for i in range(len(batches.split))]
    alone = [batch["index"].tolist() for batch in loader(batches, range(6), range(8), workers=0, pin=False)]
    assert alone == [batches.ids(step).tolist() for step in range(6)]
    shared = [opened(table) for _ in range(2)]
    parts = [
        list(loader(each, range(2, 6), slots, workers=workers, pin=False))
        for each, slots in zip(shared, (range(3), range(3, 8)), strict=True)
    ]
    assert [first["index"].tolist() + second["index"].tolist() for first, second in zip(*parts, strict=True)] == alone[2:]
    values = [int(batch["views"]["view"][0, 0, 0, 0]) for batch in parts[0]]
    assert values == [int(batches.split.image(ids[0], None)[0, 0, 0]) for ids in alone[2:]]


def test_the_next_window_is_copied_before_it_is_read(table: Path) -> None:
    batches = opened(table)
    stream = loader(batches, range(4), range(8), workers=0, pin=False)
    next(stream)
    wanted = len(list(upcoming(batches.shards, batches.order, 32, 0, 0)))  # pyright: ignore[reportArgumentType]
    scratch = table.parent / "scratch"
    for _ in range(600):
        if len(list(scratch.glob("*.blob"))) >= wanted:
            break
        time.sleep(0.05)
    assert len(list(scratch.glob("*.blob"))) >= wanted > 3
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_without_shards_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.shuffle: got blocks, but digits is not read in shards \(Parquet, tar and Arrow are\)"
    ):
        open_source(DataConfig(shuffle="blocks"))


def test_copies_without_room_are_refused_before_anything_is_copied(table: Path) -> None:
    size = int(rows.Rows([table], np.array([0, 40]), "image", "").shards().sizes[0])
    with pytest.raises(
        ConfigError,
        match=r"^data\.window: got 3: two windows .* and data\.disk_gb gives .*; lower it to 1, or raise data\.disk_gb",
    ):
        opened(table, disk_gb=3 * size / 1e9)
    config = DataConfig(source=str(table), memory_gb=0.0, scratch=str(table.parent / "scratch"), disk_gb=5 * size / 1e9)
    with pytest.raises(
        ConfigError,
        match=r"^data\.shuffle: got full, which needs all shards at once: .* --data\.shuffle blocks --data\.window 2 needs few",
    ):
        open_source(config)
    assert not (table.parent / "scratch").exists()
    assert open_source(DataConfig(source=str(table), disk_gb=5 * size / 1e9)).train  # the decoded images fit data.memory_gb


def test_a_process_that_the_system_kills_is_told_as_what_it_probably_is(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = opened(table)
    monkeypatch.setattr(batches, "load", lambda step, slots: os.kill(os.getpid(), 9))
    with pytest.raises(UserError, match=r"^data\.workers: the system killed a process .* probably as memory ran out"):
        list(loader(batches, range(2), range(8), workers=1, pin=False))
