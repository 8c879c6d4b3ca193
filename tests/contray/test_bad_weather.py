"""Full, read-only and lying disks, images that vanish, clocks that jump: each with its own line and a defined outcome."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contray import track
from contray.cli import main
from contray.storage.checkpoint import latest
from contray.storage.folder import Storage
from contray.training import launch, worker
from contray.training.lease import LEASE

from .test_end_to_end import TINY, words
from .test_loop import run, tiny

STEPS = 8


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a run lies; no Ray can be started."""

    def started(*args: object, **kwargs: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(launch, "ray_session", started)
    return tmp_path


@pytest.fixture
def keys(store: str, here: Path) -> dict[str, Any]:
    own = {"scale.storage": here / "runs", "track.uri": store, "track.name": "r", "track.model": "false", "train.steps": STEPS}
    return {**TINY, **own, "eval.every_epochs": 0, "eval.final": ""}


@pytest.fixture
def photos(here: Path) -> Path:
    """81 images without classes."""
    folder, rng = here / "photos", np.random.default_rng(0)
    folder.mkdir()
    for i in range(81):
        Image.fromarray(rng.integers(0, 255, (16, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], None]]:
    """What happens once so many steps are done."""
    events: dict[int, Callable[[], None]] = {}
    real = worker.Recorder.log

    def log(self: worker.Recorder, step: int, values: dict[str, float]) -> None:
        real(self, step, values)
        events.pop(step, lambda: None)()

    monkeypatch.setattr(worker.Recorder, "log", log)
    return events


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command ends, with exit code 2."""
    capsys.readouterr()
    assert main(command) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("r: step ")]  # progress
    assert len(lines) == 1, lines
    assert lines[0].startswith("contray: ")
    return lines[0]


def runs_of(store: str) -> list[Any]:
    talk = track.client(store)
    return list(talk.search_runs([found.experiment_id for found in talk.search_experiments()]))


# ---------------------------------------------------------------- storage


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Files whose drafts cannot be written, by parts of their names: the disk is full."""
    parts: set[str] = set()
    real = os.fsync

    def fsync(handle: int) -> None:
        if any(part in os.readlink(f"/proc/self/fd/{handle}") for part in parts):
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return parts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_at_a_checkpoint_is_said_and_tried_again(full: set[str], tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    full |= {"step-000000002", "step-000000004"}
    with pytest.warns(UserWarning, match="could not be written") as said:
        outcome, losses = run(tiny("simclr", train__checkpoint_steps=2, train__steps=6), storage)
    told = [str(each.message) for each in said if "could not be written" in str(each.message)]
    assert told == [
        f"the checkpoint of step {step} could not be written to {tmp_path}: [Errno 28] No space left on device" for step in (2, 4)
    ]
    assert outcome.finished
    assert losses.durable_steps == [6], "no point may go for which there is no checkpoint"
    assert names(tmp_path) == ["step-000000006.pt"]


@pytest.mark.filterwarnings("ignore:the checkpoint of step 8 could not")
def test_a_full_disk_at_the_last_checkpoint_ends_the_run_with_the_older_one_whole(
    full: set[str], keys: dict[str, Any], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full.add("step-000000008")
    said = refused(words(keys), capsys)
    folder = here / "runs" / "r"
    assert "scale.storage: the checkpoint of step 8 could not be written to" in said
    assert "No space left on device" in said
    assert re.search(
        r"\. It went on to step 8; the last durable checkpoint is of step 6 \(\d+ s before the end\), and the same command goes on",
        said,
    )
    assert not [name for name in names(folder) if "draft" in name]
    state = latest(Storage(str(folder)))
    assert state is not None
    assert state["step"] == 6
    (failed,) = runs_of(keys["track.uri"])
    assert failed.info.status == "FAILED"

    full.clear()
    assert main(words(keys)) == 0
    (done,) = runs_of(keys["track.uri"])
    assert done.info.status == "FINISHED"
    steps = [point.step for point in track.client(keys["track.uri"]).get_metric_history(done.info.run_id, "loss")]
    assert sorted(steps) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("place", ["/proc/contray", "{here}/file", "{here}/file/runs"])
def test_storage_that_cannot_be_written_is_refused_before_anything_starts(
    place: str, keys: dict[str, Any], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("")
    where = place.format(here=here)
    said = refused(words({**keys, "scale.storage": where}), capsys)
    assert f"scale.storage: cannot write to {where}" in said
    assert runs_of(keys["track.uri"]) == []


def test_a_folder_that_became_read_only_is_refused_before_anything_starts(
    keys: dict[str, Any], here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making a folder that exists succeeds on a read-only disk; the lease is the first file to be written."""
    real = Path.open

    def read_only(self: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if mode == "wb" and self.is_relative_to(here / "runs"):
            raise OSError(30, "Read-only file system", str(self))
        return real(self, mode, *args, **more)

    monkeypatch.setattr(Path, "open", read_only)
    said = refused(words(keys), capsys)
    assert f"scale.storage: cannot write to {here}/runs/r (Read-only file system); mend that, or choose another" in said
    assert runs_of(keys["track.uri"]) == []
    assert names(here / "runs" / "r") == []


def test_a_resumed_run_refuses_other_data_and_another_config(
    photos: Path, keys: dict[str, Any], here: Path, after: dict[int, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    keys |= {"data.source": photos, "train.batch_size": 27}
    after[5] = stop
    assert main(words(keys)) == 130
    assert {"step-000000004.pt", "run.json"} <= set(names(here / "runs" / "r"))
    assert LEASE not in names(here / "runs" / "r")
    said = refused(words({**keys, "method.temperature": 0.9}), capsys)
    assert (
        "the checkpoint was made with another config; it differs in method.temperature. Give the run another --track.name" in said
    )
    (photos / "new.png").write_bytes((photos / "0.png").read_bytes())
    said = refused(words(keys), capsys)
    assert "resuming would not be exact: " in said
    assert "--train.allow_changes true goes on all the same" in said
    assert main(words({**keys, "train.allow_changes": "true"})) == 0
    kept = track.client(keys["track.uri"]).search_runs(["0", "1"])
    assert [run.data.tags.get(track.INEXACT) for run in kept] == ["went on although data changed"]


# ---------------------------------------------------------------- data


def test_images_that_vanish_are_replaced_counted_and_named(
    photos: Path, keys: dict[str, Any], here: Path, after: dict[int, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = [photos / f"{i}.png" for i in (3, 40, 77)]

    def vanish() -> None:
        for path in gone:
            path.unlink()

    after[2] = vanish
    keys |= {"data.source": photos, "data.memory_gb": 0, "train.batch_size": 20}  # not decoded once: read at each access
    assert main(words(keys)) == 0
    out = capsys.readouterr().out
    named = [path for path in gone if f"replaced a broken image: {path} (the file is gone)" in out]
    assert named == gone
    state = latest(Storage(str(here / "runs" / "r")))
    assert state is not None
    assert set(state["broken"].values()) == {"the file is gone"}
    assert len(state["broken"]) == 3


def test_too_many_vanished_images_end_the_run_with_its_checkpoint(
    photos: Path, keys: dict[str, Any], here: Path, after: dict[int, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    after[5] = lambda: [path.unlink() for path in sorted(photos.iterdir())[::3]]
    said = refused(words({**keys, "data.source": photos, "data.memory_gb": 0, "train.batch_size": 20}), capsys)
    assert "data.source: " in said
    assert "images are broken, more than data.max_broken 0.05 allows" in said
    assert "the file is gone" in said
    assert "step-000000004.pt" in names(here / "runs" / "r")


def test_a_disk_that_stays_unreadable_is_named_and_the_checkpoint_kept(
    photos: Path,
    keys: dict[str, Any],
    here: Path,
    after: dict[int, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from contray.data import splits

    monkeypatch.setattr(splits, "_PAUSES", (0.0,))

    def unplug() -> None:
        def fail(self: Path) -> bytes:
            raise OSError(5, "Input/output error", str(self))

        monkeypatch.setattr(Path, "read_bytes", fail)

    after[5] = unplug
    command = words({**keys, "data.source": photos, "data.memory_gb": 0, "train.batch_size": 20})
    said = refused(command, capsys)
    assert f"Input/output error: '{photos}/" in said
    assert "the last durable checkpoint is of step 4 (" in said
    assert "and the same command goes on from it" in said
    assert "step-000000004.pt" in names(here / "runs" / "r")


@pytest.fixture
def shards(photos: Path, here: Path) -> Path:
    folder = here / "shards"
    folder.mkdir()
    images = [path.read_bytes() for path in sorted(photos.iterdir())]
    for i in range(3):
        part = images[27 * i : 27 * (i + 1)]
        pq.write_table(pa.table({"image": part, "label": list(range(27))}), folder / f"train-{i}.parquet", compression="zstd")
    return folder


@pytest.mark.parametrize("workers", ["0 0", "2 2"])
def test_a_truncated_shard_is_refused_before_ray_starts(
    workers: str, shards: Path, keys: dict[str, Any], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = shards / "train-1.parquet"
    torn.write_bytes(torn.read_bytes()[:-100])
    said = refused(words({**keys, "data.source": shards, "scale.workers": tuple(workers.split())}), capsys)
    assert f"data.source: {torn} is no readable Parquet file" in said
    assert not (here / "runs").exists()


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_damaged_shard_is_named(
    column: str, shards: Path, keys: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its footer is whole: only reading the column tells."""
    from contray.data import splits

    monkeypatch.setattr(splits, "_PAUSES", (0.0,))
    torn = shards / "train-1.parquet"
    meta = pq.read_metadata(torn).row_group(0)
    chunk = next(found for found in (meta.column(i) for i in range(2)) if found.path_in_schema == column)
    content = bytearray(torn.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    torn.write_bytes(content)
    said = refused(words({**keys, "data.source": shards, "train.batch_size": 20}), capsys)
    assert f"data.source: {torn} is damaged (" in said
    assert "fetch it again, or leave it out" in said


# ---------------------------------------------------------------- clocks


def test_a_clock_that_jumps_back_neither_loses_nor_reorders_points(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = iter([10, 11, 3, 4, 0, 12, 12, 1])
    monkeypatch.setattr(track.metric_log, "time", SimpleNamespace(time=lambda: 1.7e9 + 3600 * next(hours)))
    record = track.begin(store, "contray", "r", params={}, tags={})
    log = track.MetricLog(record)
    for step in range(1, 9):
        log.log(step, {"loss": 1.0 / step})
        log.durable(step)
    assert log.close(20) == 0
    assert sorted(record.history("loss")) == [(step, 1.0 / step) for step in range(1, 9)]
    (found,) = runs_of(store)
    assert found.data.metrics["loss"] == 1 / 8, "the last value is that of the last step"


def test_a_clock_that_jumps_changes_no_checkpoint_and_no_duration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(calls) * 86400)
    began = time.monotonic()
    outcome, losses = run(tiny("simclr", train__steps=4, train__checkpoint_seconds=3600.0), Storage(str(tmp_path)))
    assert losses.durable_steps == [4]
    assert 0 < outcome.seconds <= time.monotonic() - began
