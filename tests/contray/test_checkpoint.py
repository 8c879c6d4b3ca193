"""Checkpoints are right or refused: damage, writes that fail or hang, drafts of the killed, steps that are no numbers."""

from __future__ import annotations

import contextlib
import copy
import errno
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contray.errors import UserError
from contray.model import optim
from contray.model.determinism import make_deterministic
from contray.storage.checkpoint import BEST, dump, latest, load
from contray.storage.folder import Storage
from contray.training import checkpoints
from contray.training.checkpoints import Checkpoints, Unsaved
from contray.training.lease import held
from contray.training.loop import Listener, NonFiniteLoss
from contray.training.restore import DoesNotFit

from .test_loop import Losses, run, tiny

STATE = {
    "method": {"weight": torch.arange(300.0), "count": torch.tensor(7)},
    "optimizer": {"momentum": torch.linspace(0, 1, 50, dtype=torch.float64)},
    "config": "a: 1",
    "step": 8,
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one == other


def plain() -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    return buffer.getvalue()


# ---------------------------------------------------------------- damage

FILES = {"with a digest": bytes(dump(STATE)), "of an earlier version": plain()}
places = st.integers(0, min(map(len, FILES.values())) - 1)
damages = st.one_of(
    st.tuples(st.just("flip"), places, st.integers(1, 255)),
    st.tuples(st.just("zeros"), places, st.integers(1, 4096)),
    st.tuples(st.just("cut"), places, st.just(0)),
    st.tuples(st.just("drop"), places, st.integers(1, 200)),
    st.tuples(st.just("twice"), places, st.integers(1, 200)),
)


def damaged(content: bytes, how: str, place: int, size: int) -> bytes:
    head, tail = content[:place], content[place:]
    match how:
        case "flip":
            return head + bytes([tail[0] ^ size]) + tail[1:]
        case "zeros":
            return head + bytes(len(tail[:size])) + tail[size:]
        case "cut":
            return head
        case "drop":
            return head + tail[size:]
    return head + tail[:size] + tail


@given(file=st.sampled_from(sorted(FILES)), several=st.lists(damages, min_size=1, max_size=3))
@settings(derandomize=True, deadline=None, max_examples=400)
def test_damage_never_loads_wrong_values(file: str, several: list[tuple[str, int, int]]) -> None:
    content = FILES[file]
    for how, place, size in several:
        content = damaged(content, how, min(place, max(0, len(content) - 1)), size) if content else content
    found, refused = STATE, "there: "
    try:
        found = load(content, "there")
    except UserError as error:
        refused = str(error)
    assert same(found, STATE)
    assert refused.startswith("there: ")
    assert "\n" not in refused


@given(content=st.binary(max_size=300))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_what_is_no_checkpoint_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^there: it is torn or no checkpoint$"):
        load(content, "there")


def test_a_checkpoint_is_still_a_file_of_torch() -> None:
    assert same(torch.load(io.BytesIO(dump(STATE)), weights_only=True), STATE)
    assert same(load(FILES["with a digest"], "there"), STATE)
    assert same(load(FILES["of an earlier version"], "there"), STATE)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    place = Storage(str(tmp_path / "run"))
    place.create()
    return place


def spoil(storage: Storage, name: str) -> None:
    path = Path(storage.address) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


class Told(Losses):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def trouble(self, what: str, words: str) -> None:
        assert what == ("damage" if "damaged" in words else "checkpoint")
        self.words.append(words)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_and_is_cleared(storage: Storage) -> None:
    run(tiny("simclr", train__steps=4, train__checkpoint_steps=2, train__keep=9), storage)
    spoil(storage, "step-000000004.pt")
    told = Told()
    words = r"step-000000004.pt: it is damaged, its digest differs; the checkpoint before it is used, step-000000002.pt$"
    with pytest.warns(UserWarning, match=words):  # where nobody listens
        latest(storage)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is told, and not said twice
        outcome, _ = run(tiny("simclr", train__steps=4, train__checkpoint_steps=3, train__keep=1), storage, told)
    assert outcome.step == 4
    assert min(told.loss) == 3
    assert len(told.words) == 1
    assert re.search(words, told.words[0])
    assert storage.names() == ["step-000000004.pt"], "the newest whole one is kept, not the damaged one with the larger number"
    state = latest(storage)
    assert state is not None
    assert state["step"] == 4


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(storage: Storage) -> None:
    config = tiny("simclr", train__steps=2, train__checkpoint_steps=1)
    run(config, storage)
    before = storage.names()
    for name in before:
        spoil(storage, name)
    with pytest.raises(UserError, match=r"none of the checkpoints in .* is whole .*remove them to begin at step 0"):
        run(config, storage)
    assert storage.names() == before


# ---------------------------------------------------------------- writes that fail or hang


class Lame(Storage):
    """A storage whose writes wait or fail while `how` says so."""

    def __init__(self, address: str, how: Callable[[str], None]) -> None:
        super().__init__(address)
        self.how = how

    def write(self, name: str, content: bytes | memoryview) -> None:
        self.how(name)
        super().write(name, content)


def test_a_write_that_hangs_is_told_and_holds_up_neither_training_nor_the_end(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "LATE", 0.05)
    hangs, told = threading.Event(), Told()
    lame = Lame(storage.address, lambda name: hangs.wait(60) and None)
    try:
        with pytest.raises(
            Unsaved, match=r"scale.max_unsaved_minutes: for 0.02 min .*the write hangs\); there is no checkpoint yet"
        ):
            run(tiny("simclr", train__steps=10**6, train__checkpoint_steps=1, scale__max_unsaved_minutes=0.02), lame, told)
        assert len(told.loss) > 3, "training went on"
        assert any("is being written" in words for words in told.words)
    finally:
        hangs.set()


def test_writes_that_fail_are_told_at_once_and_end_the_run_in_time(storage: Storage) -> None:
    def full(name: str) -> None:
        if name > "step-000000002.pt":
            raise OSError(28, "No space left on device")

    told = Told()
    config = tiny("simclr", train__steps=10**6, train__checkpoint_steps=1, scale__max_unsaved_minutes=0.01)
    with (
        pytest.warns(UserWarning, match="could not be written"),
        pytest.raises(Unsaved, match=r"for 0.01 min .*No space left on device.*newest checkpoint is of step 2, .* min ago"),
    ):
        run(config, Lame(storage.address, full), told)
    assert "the checkpoint of step 3 could not be written" in told.words[0]
    assert "the newest checkpoint is of step 2" in told.words[0]


def test_a_storage_that_recovers_is_told_too_and_ends_nothing(storage: Storage) -> None:
    fails = iter([True, True])

    def sometimes(name: str) -> None:
        if next(fails, False):
            raise OSError(5, "Input/output error")

    told = Told()
    with pytest.warns(UserWarning, match="could not be written"):
        outcome, _ = run(
            tiny("simclr", train__steps=4, train__checkpoint_steps=1, scale__max_unsaved_minutes=10),
            Lame(storage.address, sometimes),
            told,
        )
    assert outcome.finished
    assert told.durable_steps == [3, 4]
    assert [bool(words) for words in told.words] == [True, True, False]
    assert "there is no checkpoint yet" in told.words[0]


def test_the_newest_and_the_best_state_wait_for_a_write_that_hangs(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "LATE", 0.0)
    hangs = threading.Event()
    written = Checkpoints(Lame(storage.address, lambda name: hangs.wait(60) and None), keep=9)
    try:
        for step in (1, 2, 3, 4):
            written.save(step, {**STATE, "step": step}, best=step == 2)
    finally:
        hangs.set()
    written.join()
    assert storage.names() == [BEST, "step-000000001.pt", "step-000000002.pt", "step-000000004.pt"]
    assert load(storage.read(BEST), "there")["step"] == 2


def test_old_checkpoints_that_cannot_be_removed_are_told_and_end_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket whose role may write and not delete: what is written is written."""
    told: dict[str, list[str]] = {}
    written = Checkpoints(storage, keep=1, trouble=lambda what, words: told.setdefault(what, []).append(words))

    def denied(name: str) -> None:
        raise OSError(13, "AccessDenied")

    with monkeypatch.context() as within:
        within.setattr(storage, "remove", denied)
        for step in (1, 2, 3):
            written.save(step, {**STATE, "step": step}, wait=True)
    assert written.overdue() is None
    assert storage.names() == [f"step-{step:09d}.pt" for step in (1, 2, 3)]
    assert told.keys() == {"old checkpoints"}
    assert all("take more and more room: [Errno 13] AccessDenied" in words for words in told["old checkpoints"])
    written.save(4, {**STATE, "step": 4}, wait=True)
    assert storage.names() == ["step-000000004.pt"]
    assert told["old checkpoints"][-1] == "", "over"


def test_a_last_checkpoint_that_fails_names_no_checkpoint_that_does_not_exist(storage: Storage) -> None:
    def full(name: str) -> None:
        raise OSError(28, "No space left on device")

    with (
        pytest.warns(UserWarning, match="could not be written"),
        pytest.raises(UserError, match=r"checkpoint of step 2 could not be written .*mend that$"),
    ):
        run(tiny("simclr", train__steps=2), Lame(storage.address, full))


def test_who_holds_the_lease_clears_the_drafts_of_the_killed(storage: Storage, tmp_path: Path) -> None:
    folder = Path(storage.address)
    for name in (".step-000000008.pt.4711.draft", ".best.pt.a1b2.draft", ".lease.json.4711.draft", ".config.yaml.1.draft"):
        (folder / name).write_bytes(b"half")
    (folder / "kept.draft").write_bytes(b"somebody's own file")
    with held(storage):
        assert storage.names() == ["kept.draft", "lease.json"]


def test_workers_that_start_anew_clear_the_drafts_of_checkpoints_alone(storage: Storage) -> None:
    folder = Path(storage.address)
    for name in (".step-000000008.pt.0c.draft", ".lease.json.0c.draft"):
        (folder / name).write_bytes(b"half")
    run(tiny("simclr", train__steps=1), storage)
    assert storage.names() == [".lease.json.0c.draft", "step-000000001.pt"]


def test_drafts_of_two_processes_of_one_number_differ(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    real = Path.open

    def opened(self: Path, *args: Any, **more: Any) -> Any:
        seen.add(self.name)
        return real(self, *args, **more)

    monkeypatch.setattr(Path, "open", opened)
    storage.write("a", b"1")
    storage.write("a", b"2")
    assert len(seen) == 2
    assert all(name.startswith(".a.") and name.endswith(".draft") for name in seen)


# ---------------------------------------------------------------- steps that are no numbers


class Injected:
    """Makes the gradients, the loss or the weights of some steps infinite, as `what` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, what: str, *steps: int) -> None:
        self.step, self.bad = 0, steps
        schedules, clip = optim.set_schedules, optim.clip_gradients

        def set_schedules(optimizer: Any, config: Any, clock: Any) -> float:
            self.step, self.optimizer = clock.step + 1, optimizer
            return schedules(optimizer, config, clock)

        def clip_gradients(options: Any, params: Any) -> Any:
            if self.step in self.bad and what == "gradients":
                params[0].grad.fill_(float("nan"))
            norm = clip(options, params)
            if self.step in self.bad and what == "weights":
                params[0].data.fill_(float("inf"))
            return norm

        monkeypatch.setattr(optim, "set_schedules", set_schedules)
        monkeypatch.setattr(optim, "clip_gradients", clip_gradients)


class Offered(Listener):
    """Keeps every state that an evaluation offers (what PBT copies)."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def evaluated(self, step: int, fraction: float, values: Any, save: Callable[[], dict[str, Any]]) -> None:
        self.states.append(copy.deepcopy(save()))


def finite(state: dict[str, Any]) -> bool:
    values = [*state["method"].values(), *(value for each in state["optimizer"]["state"].values() for value in each.values())]
    return all(value.isfinite().all() for value in values if isinstance(value, torch.Tensor))


RARE = {"train__log_every": 50, "train__checkpoint_steps": 4, "eval__every_epochs": 0.1, "train__steps": 9, "train__keep": 9}


@pytest.mark.parametrize("reads", [True, False], ids=["cpu", "as on a GPU"])
@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_nothing_is_saved_past_a_bad_step(reads: bool, on_nan: str, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 5 is bad, the evaluation after step 6 and the checkpoint after step 8 are the first occasions to see it without waiting for a GPU."""
    monkeypatch.setattr("contray.training.finite.free_to_read", lambda device: reads)
    Injected(monkeypatch, "gradients", 5)
    offered, config = Offered(), tiny("simclr", train__on_nan=on_nan, **RARE)
    if on_nan == "stop":
        with pytest.raises(NonFiniteLoss, match="step 5: loss or gradients are not finite"):
            run(config, storage, offered)
        assert "step-000000004.pt" in storage.names()
    else:
        outcome, _ = run(config, storage, offered)
        assert outcome.finished
        assert load(storage.read("step-000000009.pt"), "there")["skipped"] == [5]
    kept = [load(storage.read(name), name) for name in storage.names() if name.endswith(".pt")]
    assert kept
    assert all(map(finite, [*kept, *offered.states]))


class Stops(Losses):
    """After two steps."""

    def stop(self) -> bool:
        return len(self.loss) >= 2


@pytest.mark.parametrize("lost", ["groups", "weights"])
def test_a_checkpoint_of_other_weights_is_refused_in_one_line(lost: str, storage: Storage) -> None:
    """As one that a contray of before wrote, whose method had others."""
    config = tiny("simclr", train__steps=6, train__log_every=1)
    run(config, storage, Stops())
    name = max(name for name in storage.names() if name.startswith("step-"))
    state = load(storage.read(name), name)
    if lost == "groups":
        state["optimizer"]["param_groups"][0]["params"].pop()
    else:
        state["method"].pop("backbone.conv1.weight")
    storage.write(name, dump(state))
    with pytest.raises(DoesNotFit, match=r"the checkpoint is of other weights than simclr has now .*its encoder is read as ever"):
        run(config, storage)


def test_a_state_that_is_not_finite_although_its_gradients_were_is_not_saved(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    Injected(monkeypatch, "weights", 4)
    with pytest.raises(NonFiniteLoss, match=r"step 4: method\.backbone\.\S+ is not finite, although loss and gradients were"):
        run(tiny("simclr", train__checkpoint_steps=2, train__on_nan="skip"), storage)
    assert storage.names() == ["step-000000002.pt"]


@pytest.mark.parametrize("bad", [(6,), (5, 6), (4, 5, 6)])
def test_steps_left_out_at_the_end_still_end_in_a_checkpoint(
    bad: tuple[int, ...], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    Injected(monkeypatch, "gradients", *bad)
    outcome, told = run(tiny("simclr", train__on_nan="skip", train__checkpoint_steps=5), storage)
    assert outcome.finished
    state = latest(storage)
    assert state is not None
    assert (state["step"], state["skipped"]) == (6, list(bad))
    assert told.durable_steps[-1] == 6
    assert finite(state)


@pytest.fixture
def switches() -> Any:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (
        cudnn.benchmark,
        cudnn.deterministic,
        cudnn.allow_tf32,
        matmul.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )
    yield lambda: (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32)
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before[:4]
    torch.use_deterministic_algorithms(before[4])


def test_determinism_sets_every_switch_of_a_gpu_and_none_for_a_cpu(
    switches: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = switches()
    make_deterministic(tiny("simclr").train, torch.device("cpu"))
    assert switches() == before
    make_deterministic(tiny("simclr").train, torch.device("cuda"))
    assert switches() == (False, True, False, False)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    make_deterministic(tiny("simclr").train, torch.device("cuda"), torch.nn.MultiheadAttention(4, 2))
    assert not torch.is_deterministic_algorithms_warn_only_enabled(), "under it the gradients of attention have no fixed order"
    assert not torch.utils.deterministic.fill_uninitialized_memory
    make_deterministic(tiny("simclr", train__deterministic=False).train, torch.device("cuda"))
    assert switches() == (True, False, True, True)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("number", "stands"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_that_syncs_no_folder_keeps_files_all_the_same(
    number: int, stands: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with contextlib.nullcontext() if stands else pytest.raises(OSError, match=os.strerror(number)):
        Storage(str(tmp_path)).write("x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"
