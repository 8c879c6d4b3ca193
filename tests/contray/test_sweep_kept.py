"""What a sweep keeps of itself and under whose lease: the parts that need no Ray."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contray import RunConfig
from contray.config import registry
from contray.errors import UserError
from contray.storage import sealed
from contray.storage.folder import Storage
from contray.training.lease import LEASE, Fenced, LeaseLost, held
from contray.training.records import ENDED, SWEEP
from contray.tuning import kept, trial
from contray.tuning.launch import VERSION, _folder
from contray.tuning.search import Search
from contray.tuning.trial import RECORD, REPORTS, TuneReport

SPACE = {"optim.lr": "a domain", "train.batch_size": "a domain"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda each: st.lists(each, max_size=2), max_leaves=4
)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.make("simclr", preset="digits")


def test_trials_write_under_the_lease_of_their_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "RENEW", 0.0)
    home = Storage(str(tmp_path / "sweep"))
    home.create()
    (home / "00000").create()
    with held(home) as lease:
        place = Fenced(f"{home.address}/00000", lease.token, home.address)
        place.write("a", b"1")
        report = TuneReport("00000", place)
        report.show({"total": 4, "step": 1})
        home.write(LEASE, json.dumps({"token": "another's", "pid": 1, "host": "there"}).encode())
        for act in (
            lambda: place.write("a", b"2"),
            lambda: report.show({"total": 4, "step": 2}),
            lambda: Fenced(place.address, lease.token, home.address),
        ):
            with pytest.raises(LeaseLost, match=r"sweep was taken over by process 1 on there"):
                act()
    assert place.read("a") == b"1"
    assert LEASE not in place.names(), "the trial has no lease of its own"


def test_trials_on_record_are_named_first_and_new_ones_after_them() -> None:
    name = kept.places([kept.Begun("00000", {}), kept.Begun("00003", {})])
    trials = [SimpleNamespace(trial_id=str(number)) for number in range(4)]
    assert [name(each) for each in trials] == ["00000", "00003", "00004", "00005"]
    assert name(trials[1]) == "00003", "Tune asks twice: for the name, and for the folder"


def test_a_grid_is_drawn_alike_again() -> None:
    from ray import tune

    space = {
        "optim.lr": tune.loguniform(0.1, 1),
        "train.batch_size": tune.grid_search([32, 64]),
        "backbone.width": tune.randint(4, 9),
    }
    trials = kept.drawn(space, 2, 7)
    assert trials == kept.drawn(space, 2, 7)
    assert trials != kept.drawn(space, 2, 8)
    assert [each.params["train.batch_size"] for each in trials] == [32, 64, 32, 64]
    assert len({each.params["optim.lr"] for each in trials}) == 4
    assert json.loads(json.dumps([each.params for each in trials])) == [each.params for each in trials]


def test_trials_on_record_are_read_in_their_order(config: RunConfig, tmp_path: Path) -> None:
    params = [{"optim.lr": 0.1 * number, "train.batch_size": 64} for number in (1, 2, 3)]
    for number, each in zip((10, 2, 3), params, strict=True):
        (tmp_path / kept.name_of(number)).mkdir()
        (tmp_path / kept.name_of(number) / RECORD).write_text(json.dumps({"run_id": "x", "params": each}))
    (tmp_path / "tune").mkdir()
    assert kept.begun(Storage(str(tmp_path)), config, SPACE) == [
        kept.Begun("00002", params[1]),
        kept.Begun("00003", params[2]),
        kept.Begun("00010", params[0]),
    ]


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    st.binary(max_size=20)
    | st.builds(lambda value: json.dumps(value).encode(), VALUES | st.dictionaries(st.sampled_from(["params", "run_id"]), VALUES))
    | st.builds(lambda a, b: json.dumps({"params": {"optim.lr": a, "train.batch_size": b}}).encode(), VALUES, VALUES)
)
def test_a_damaged_record_is_refused_in_one_line(config: RunConfig, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "00000"
        place.mkdir()
        (place / RECORD).write_bytes(content)
        said = ""
        try:
            (found,) = kept.begun(Storage(folder), config, SPACE)
            config.replace(found.params)
        except UserError as error:
            said = str(error)
        assert "\n" not in said


def test_a_sweep_goes_on_with_the_config_that_it_began_with(config: RunConfig, tmp_path: Path) -> None:
    """Trials that have ended are not trained again: beside those of another config the ranking would be of unlike things."""
    storage, search = Storage(str(tmp_path)), Search(1, "none", 0.4, 0, 0, "linear_val_top1", {})
    (storage / "s").create()
    before = {key: value for key, value in asdict(search).items() if key not in ("against", "warm")}  # which older records lack
    record = {"run_id": "x", "finished": False, "search": before, "version": VERSION, "config": config.to_yaml()}
    sealed.write(storage / "s", SWEEP, record)
    free = config.replace({"data.workers": 3, "train.allow_changes": True, "scale.workers": (0, 0), "track.name": "s"})
    assert _folder(storage, "s", True, search, free)[0].address == str(tmp_path / "s")
    with pytest.raises(UserError, match=r"^--resume: s was begun otherwise: optim\.lr \(.* -> 7\.0\), train\.steps \(.* -> 9\)$"):
        _folder(storage, "s", True, search, config.replace({"train.steps": 9, "optim.lr": 7.0}))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(name=st.sampled_from([ENDED, REPORTS]), at=st.floats(0, 1, exclude_max=True), change=st.binary(max_size=3))
def test_a_trial_whose_outcome_is_damaged_is_no_failed_trial(name: str, at: float, change: bytes) -> None:
    facts: dict[str, Any] = {"step": 4, "linear_val_top1": 0.25} if name == ENDED else {"reports": [{"step": 2, "progress": 50}]}
    with tempfile.TemporaryDirectory() as folder:
        place = Storage(f"{folder}/00003")
        place.create()
        sealed.write(place, name, facts)
        whole = place.read(name)
        place.write(name, whole[: int(at * len(whole))] + change)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            kept.mend(Storage(folder))
        assert place.names() == []
        assert f"00003/{name} is damaged" in said.getvalue()
        assert said.getvalue().count("\n") == 1
        sealed.write(place, name, facts)
        kept.mend(Storage(folder))
        assert place.names() == [name]


def test_a_record_names_no_code(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_named", {})
    (tmp_path / "00000").mkdir()
    record: dict[str, Any] = {"params": {"method.name": str(tmp_path / "evil.py")}}
    (tmp_path / "00000" / RECORD).write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"evil\.py, and only code that you name yourself runs"):
        kept.begun(Storage(str(tmp_path)), config, {"method.name": "a domain"})


def test_a_sweep_says_every_minute_what_it_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from contray.tuning import search

    class Running:
        status, last_result = "RUNNING", {"progress": 40}

        def __str__(self) -> str:
            return "00001"

    now = [100.0]
    monkeypatch.setattr(search.time, "monotonic", lambda: now[0])
    watch = search._watch("knn_val_top1")
    watch.setup()
    told = []
    for now[0] in (159.0, 160.0, 219.0, 220.0):
        watch.on_step_end(1, [Running()] if now[0] < 220 else [])
        told.append(capsys.readouterr().out.strip())
    line = "[   60 s] 0 trials have ended; running: 00001 40 % of its steps at its last report"
    assert told == ["", line.strip(), "", "[  120 s] 0 trials have ended; none is running yet"]
