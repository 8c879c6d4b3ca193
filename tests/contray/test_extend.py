"""A finished run trains longer: exactly where the schedules allow it, and it is said where they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from contray import RunConfig, model, track
from contray.errors import ConfigError, UserError
from contray.storage import sealed
from contray.storage.checkpoint import dump, latest
from contray.storage.folder import Storage
from contray.training import records, worker
from contray.training.extend import _differing
from contray.training.launch import launch
from contray.training.records import note
from contray.training.restore import check_kept
from contray.training.result import Result

TINY = {
    **{"data.size": 16, "data.renderings": 1, "data.workers": 0, "views.view.size": 16, "backbone.width": 4},
    **{"method.projector_hidden": 16, "method.projector_dim": 8, "train.batch_size": 64, "train.precision": "fp32"},
    **{
        "train.device": "cpu",
        "eval.every_epochs": 0.1,
        "eval.online_limit": 100,
        "eval.linear.epochs": 1,
        "eval.linear.lrs": (1.0,),
    },
    **{"eval.linear.decays": (0.0,), "scale.workers": (0, 0), "scale.cpus_per_worker": 1, "optim.schedule": "constant"},
    **{"optim.warmup_epochs": 0.2, "track.model": False},
}
Train = Callable[..., Result]


@pytest.fixture
def train(tmp_path: Path, store: str) -> Train:
    def run(name: str, steps: int, extend: str = "no", **keys: Any) -> Result:
        own = {
            "scale.storage": str(tmp_path / "runs"),
            "track.uri": store,
            "track.name": name,
            "train.steps": steps,
            "train.extend": extend,
        }
        return launch(RunConfig.make("simclr", {**TINY, **own, **keys}, preset="digits"), quiet=True)

    return run


def state_of(result: Result) -> dict[str, Any]:
    state = latest(Storage(result.checkpoint))
    assert state is not None
    return state


def test_six_steps_and_four_more_are_ten(train: Train, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = train("whole", 10)
    first = train("r", 6, **{"track.model": True})
    longer = train("r", 10, "exact", **{"track.model": True})
    assert "the test set is opened once more" in capsys.readouterr().out
    assert (longer.run_id, longer.name, longer.step, longer.finished) == (first.run_id, "r", 10, True)
    ours, theirs = state_of(longer), state_of(whole)
    for name, tensor in theirs["method"].items():
        assert torch.equal(ours["method"][name], tensor), name
    for key, values in theirs["optimizer"]["state"].items():
        assert all(torch.equal(ours["optimizer"]["state"][key][name], value) for name, value in values.items()), key
    assert longer.metrics == whole.metrics
    kept = Storage(longer.checkpoint)
    repeated = RunConfig.from_file(Path(longer.checkpoint) / "config.yaml")
    assert (repeated.train.steps, repeated.train.extend) == (10, "no"), "a run is repeated by its config, not extended"
    for name, result in (("verdict-6.json", first), ("verdict.json", longer)):
        assert sealed.read(kept, name, sealed.NUMBER) == {**result.metrics, **result.details["about"]}
    outputs = track.client(store).get_run(longer.run_id).outputs
    assert outputs is not None
    assert len(outputs.model_outputs) == 2, "the encoder of the new end was not kept"
    steps = [step for step, _ in track.attach(store, longer.run_id).history("linear_top1")]
    assert steps == [6, 10]
    again = train("r", 10)
    assert again.name == "r-2", "a finished run is not begun anew"
    with pytest.raises(
        ConfigError, match=r"^train\.extend: r has 10 steps already, and 10 were asked for; raise train\.steps, which wins"
    ):
        train("r", 10, "exact")


def test_a_cosine_is_no_shorter_cosine(train: Train, store: str) -> None:
    keys = {"optim.schedule": "cosine", "eval.final": ()}
    train("r", 6, **keys)
    with pytest.raises(
        ConfigError,
        match=r"^train\.extend: a run of 10 steps would have had .*the rate \(optim\.schedule cosine\); --train\.extend anyway",
    ):
        train("r", 10, "exact", **keys)
    with pytest.raises(UserError, match=r"it differs in optim\.lr"):
        train("r", 10, "anyway", **keys, **{"optim.lr": 0.5})
    longer = train("r", 10, "anyway", **keys)
    assert longer.step == 10
    assert (
        track.client(store).get_run(longer.run_id).data.tags[track.INEXACT]
        == "trained on from 6 to 10 steps, whose schedules differ"
    )


def test_an_extension_that_died_while_it_was_measured_goes_on(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    train("r", 1)
    measure = worker._measure
    monkeypatch.setattr(worker, "_measure", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError, match="killed"):
        train("r", 2, "exact")
    monkeypatch.setattr(worker, "_measure", measure)
    result = train("r", 2, "exact")
    assert (result.name, result.step, result.finished) == ("r", 2, True)
    assert result.metrics
    with pytest.raises(ConfigError, match=r"^train\.extend: r has 2 steps already, and 2 were asked for"):
        train("r", 2, "exact")


def test_an_extension_anyway_does_not_become_exact(train: Train) -> None:
    keys = {"optim.schedule": "cosine", "eval.final": ()}
    first = train("r", 2, **keys)
    state = state_of(first)  # as one leaves it that was stopped on its way to 4
    config = RunConfig.from_yaml(state["config"], {"train.steps": 4, "train.extend": "anyway"})
    Storage(first.checkpoint).write("step-000000003.pt", dump({**state, "step": 3, "config": config.to_yaml()}))
    with pytest.raises(ConfigError, match=r"^train\.extend: r is on its way to 4 steps by --train\.extend anyway"):
        train("r", 4, "exact", **keys)
    assert train("r", 4, "anyway", **keys).step == 4


def test_an_unfinished_run_that_goes_on_anyway_bears_a_tag_for_good(train: Train, store: str) -> None:
    """Nobody may take it for a run of its length: a study would, by the signature, which does not know how a run came to its steps."""
    keys = {"optim.schedule": "cosine", "eval.final": ()}
    first = train("r", 2, **keys)
    talk, folder = track.client(store), Storage(first.checkpoint)
    for name in ("run.json", "run.copy.json"):
        facts = sealed.read(folder, name, records.KINDS)
        assert facts is not None
        sealed.write(folder, name, {**facts, "finished": False, "status": "KILLED"})
    second = train("r", 4, "anyway", **keys)
    assert second.run_id == first.run_id
    assert talk.get_run(first.run_id).data.tags[track.INEXACT] == "trained on from 2 to 4 steps, whose schedules differ"
    state = state_of(second)
    assert state["inexact"]
    with pytest.raises(
        ConfigError, match=r"^train\.extend: r went on by --train\.extend anyway before, which does not become exact"
    ):
        train("r", 8, "exact", **{**keys, "optim.schedule": "constant"})
    plain = RunConfig.from_yaml(state["config"], {"train.extend": "no"})
    folder.write("step-000000004.pt", dump({**state, "config": plain.to_yaml()}))  # as a resume without the flag leaves it
    with pytest.raises(ConfigError, match=r"does not become exact"):
        train("r", 8, "exact", **{**keys, "optim.schedule": "constant"})


def test_another_config_is_refused_before_the_run_s_record_is_touched(train: Train, store: str) -> None:
    keys = {"eval.final": ()}
    first = train("r", 2, **keys)
    talk, folder = track.client(store), Storage(first.checkpoint)
    talk.set_terminated(first.run_id, "KILLED")
    for name in ("run.json", "run.copy.json"):
        facts = sealed.read(folder, name, records.KINDS)
        assert facts is not None
        sealed.write(folder, name, {**facts, "finished": False, "status": "KILLED"})
    kept, tags = folder.read("config.yaml"), talk.get_run(first.run_id).data.tags
    with pytest.raises(
        UserError, match=r"differs in train\.steps\. Give .* or ask for train\.steps 2 as it has \(a finished run trains longer"
    ):
        train("r", 3, **keys)
    assert folder.read("config.yaml") == kept, "the run's config is that of a command that was refused"
    run = talk.get_run(first.run_id)
    assert (run.info.status, run.data.tags) == ("KILLED", tags)
    config = RunConfig.from_yaml(kept.decode())
    for unreadable in (b"\xff", b"[]", b"", kept.replace(b"steps: 2", b"steps: 9")):  # the checkpoint has the last word
        folder.write("config.yaml", unreadable)
        with pytest.raises(UserError, match=r"differs in train\.steps"):
            check_kept(folder, config.replace({"train.steps": 3}), ())
        check_kept(folder, config.replace({"data.workers": 3}), ())


@pytest.mark.parametrize(("name", "said"), [("", "say which run goes on"), ("gone", "there is no run gone")])
def test_an_extension_needs_a_run(name: str, said: str, train: Train) -> None:
    with pytest.raises(ConfigError, match=rf"^train\.extend: {said}"):
        train(name, 10, "exact")


@pytest.mark.parametrize(
    ("method", "keys", "differing"),
    [
        ("simclr", {"optim.schedule": "constant"}, []),
        ("simclr", {"optim.schedule": "cosine"}, ["the rate"]),
        ("simclr", {"optim.schedule": "cosine", "optim.warmup_epochs": 100}, []),
        ("simclr", {"optim.schedule": "step", "optim.milestones": (0.9,)}, ["the rate"]),
        ("simclr", {"optim.schedule": "step", "optim.milestones": (1.0,)}, []),
        ("simclr", {"optim.schedule": "constant", "optim.weight_decay_end": 0.5}, ["the weight decay"]),
        ("moco", {"optim.schedule": "constant"}, []),
        ("byol", {"optim.schedule": "constant", "optim.warmup_epochs": 0}, ["the averaged network's momentum"]),
        ("dino", {"optim.schedule": "constant", "optim.weight_decay_end": -1}, ["the averaged network's momentum"]),
    ],
)
def test_schedules_are_held_against_each_other(method: str, keys: dict[str, Any], differing: list[str]) -> None:
    config = RunConfig.make(method, {"train.batch_size": 64, "backbone.width": 4, **keys}, preset="digits")
    found = list(_differing(config, model.build(config, 640), 640, 20, 30, 20))
    assert len(found) == len(differing)
    assert all(said.startswith(name) for said, name in zip(found, differing, strict=True))


def test_a_method_of_one_s_own_that_reads_the_length_is_named(tmp_path: Path) -> None:
    science = (Path(__file__).parents[2] / "methods" / "simclr.py").read_text().replace("from ._", "from contray.methods._")
    file = tmp_path / "ramped.py"
    file.write_text(f"{science}\n\ndef ramp(clock):\n    return clock.fraction * 2\n")
    config = RunConfig.make(str(file), {"optim.schedule": "constant", "backbone.width": 4}, preset="digits")
    assert list(_differing(config, model.build(config, 640), 640, 20, 30, 20)) == [
        "contray_user_ramped.ramp (it reads the clock's fraction)"
    ]


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_is_refused_is_left_as_it_was(
    finished: bool, train: Train, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"eval.every_epochs": 0}
    first = train("r", 2, **keys)
    folder, run = Storage(first.checkpoint), track.attach(store, first.run_id)
    if not finished:
        note(folder, run)
        run.finish("KILLED")
    extend, steps = ("exact", 4) if finished else ("no", 2)

    def left() -> tuple[Any, ...]:
        found = track.client(store).get_run(first.run_id)
        return {name: folder.read(name) for name in folder.names() if name != "lease.json"}, found.info.status, found.data.tags

    before = left()
    with pytest.raises(UserError, match=r"it differs in backbone\.width\. Give the run another --track\.name"):
        train("r", steps, extend, **{**keys, "backbone.width": 8})
    assert left() == before
    if finished:
        monkeypatch.setattr("contray.data.sources.PIPELINE", "another")
        with pytest.raises(UserError, match=r"resuming would not be exact: pipeline .* --train\.allow_changes true"):
            train("r", steps, extend, **keys)
        assert left() == before
        monkeypatch.undo()
    assert train("r", steps, extend, **keys).step == steps
