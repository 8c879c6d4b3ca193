"""Listeners of one's own: by the path of a file or as an entry point of somebody's package. Whatever they do, the run goes on as without them."""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import contray
from contray import RunConfig, track
from contray.config import registry
from contray.errors import UserError
from contray.training.ray_train import ray_session
from contray.training.worker import Asked, Recorder, TrainingJob, work

from .parts import EXAMPLES, TINY, images, install, placed

EXAMPLE = EXAMPLES / "csv_listener.py"
DIGITS = TINY | {"data.size": 16, "data.renderings": 1, "train.batch_size": 64}
EVENTS = [name for name in vars(track.Listener) if not name.startswith("_")]
LOUD = "from contray.track import Listener\nclass Mine(Listener):\n" + "".join(
    f"    def {event}(self, *given):\n        raise ValueError('{event} hurts')\n" for event in EVENTS
)


def config(store: str, **keys: Any) -> RunConfig:
    given = {key.replace("__", "."): value for key, value in keys.items()}
    return RunConfig.make("simclr", DIGITS | {"track.uri": store, "scale.storage": "runs", **given}, preset="digits")


def rows(file: Path) -> list[tuple[str, str, str]]:
    with file.open(newline="") as opened:
        return [(step, name, value) for step, name, value in csv.reader(opened)]


@pytest.fixture(params=["path", "entry_point"])
def listener(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return placed(request.param, EXAMPLE, "contray.listeners", "curves", "others_curves", tmp_path, monkeypatch)


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 60


def test_it_hears_what_mlflow_hears(listener: str, store: str) -> None:
    given = config(store, track__listeners=listener)
    assert given.track.listeners == (listener,)
    assert given.run_name == config(store).run_name, "who listens decides nothing"
    result = contray.train(given)
    heard = rows(Path(f"{result.name}.csv"))
    assert heard[:2] == [("0", "method", "simclr"), ("0", "mlflow", result.run_id)]
    assert heard[-1] == ("4", "status", "finished")
    assert [step for step, name, _ in heard if name == "loss"] == ["1", "2", "3", "4"]
    known = track.attach(store, result.run_id).history("loss")
    assert [float(value) for _, name, value in heard if name == "loss"] == [value for _, value in known]
    assert float(dict((name, value) for _, name, value in heard)["linear_top1"]) == result.metrics["linear_top1"]


def test_a_run_that_goes_on_tells_each_step_once(listener: str, store: str, tmp_path: Path) -> None:
    given = config(store, track__listeners=listener, eval__every_epochs=0)
    asked: list[bool] = []

    def stop_after_two(message: dict[str, Any]) -> Asked:
        asked.append(message.get("step") == 2)
        return Asked(stop=any(asked))

    plan = TrainingJob(given.to_yaml(), str(tmp_path / "runs" / "mine"), None, 1, code=registry.code_of(given))
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    first = work(plan, stop_after_two)
    assert not first["finished"]
    assert rows(tmp_path / "mine.csv")[-1] == (str(first["step"]), "status", "stopped")
    assert work(plan, lambda message: Asked())["finished"]
    heard = rows(tmp_path / "mine.csv")
    assert [step for step, name, _ in heard if name == "loss"] == ["1", "2", "3", "4"]
    assert [value for _, name, value in heard if name == "status"] == ["finished"]


def test_one_that_fails_at_everything_is_told_once_and_changes_nothing(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud.py").write_text(LOUD)
    alone = contray.train(config(store, track__name="alone"))
    capsys.readouterr()
    result = contray.train(config(store, track__name="heard", track__listeners="loud.py"))
    assert result.finished
    timed = ("images_per_second",)
    assert {k: v for k, v in result.metrics.items() if k not in timed} == {
        k: v for k, v in alone.metrics.items() if k not in timed
    }
    said = capsys.readouterr().out
    assert said.count("contray: listener loud failed") == 1
    assert "listener loud failed in begin (line 4: ValueError: begin hurts); the run goes on" in said
    assert "listener loud failed in begin" in track.attach(store, result.run_id).results()[1]["contray.trouble"]


@pytest.mark.parametrize("event", [*EVENTS, "__init__", "exits"])
def test_no_event_of_a_listener_reaches_the_run(event: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.py"
    if event == "exits":
        file.write_text(
            "from contray.track import Listener\nclass Mine(Listener):\n    def log(self, step, values):\n        raise SystemExit(3)\n"
        )
    else:
        file.write_text(
            f"from contray.track import Listener\nclass Mine(Listener):\n    def {event}(self, *given):\n        raise ValueError\n"
        )
    registry.name_code(str(file))
    shown: list[dict[str, Any]] = []
    recorder = Recorder(None, 4, lambda message: shown.append(message) or Asked(), listeners=[str(file)])
    recorder.audience.tell("begin", None)
    recorder.restore({"step": 2, "points": []})
    recorder.log(3, {"loss": 1.0})
    recorder.evaluated(3, 0.75, {"knn_val_top1": 0.5}, dict)
    recorder.collapsed(3, "flat")
    recorder.durable(3)
    recorder.trouble("checkpoint", "cannot be written")
    recorder.audience.close("finished", 4, {})
    failed = [words for message in shown for key, words in message.items() if key == "trouble.listener mine"]
    assert len(failed) == 1
    assert f"listener mine failed in {'begin' if event == '__init__' else 'log' if event == 'exits' else event}" in failed[0]


def test_a_slow_one_holds_nobody_up_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "slow.py"
    file.write_text(
        "import time\nfrom contray.track import Listener\nclass Slow(Listener):\n    def log(self, step, values):\n        time.sleep(60)\n"
    )
    registry.name_code(str(file))
    monkeypatch.setattr(track.listeners, "WAITING", 50)
    told: list[str] = []
    audience = track.Audience([str(file)], lambda what, words: told.append(words))
    began = time.monotonic()
    for step in range(60):
        audience.tell("log", step, {})
    assert told == ["listener slow is 50 events behind and misses what comes now"]
    audience.close("finished", 60, {}, timeout_s=0.5)
    assert time.monotonic() - began < 5
    assert told[1].startswith("listener slow has not heard the last")


def test_a_failure_is_heard_with_the_step_it_came_to(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLE, tmp_path)
    given = config(store, track__listeners="csv_listener.py", optim__lr=1e30, eval__every_epochs=0, optim__warmup_epochs=0)
    with pytest.raises(UserError, match="finite"):
        contray.train(given)
    assert rows(Path(f"{given.run_name}.csv"))[-1][1:] == ("status", "failed")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such file"),
        ("x = 1", r"track\.listeners: .*mine\.py must define exactly one subclass of contray\.track\.Listener, it defines 0"),
        ("import wandbb", r"it cannot be imported \(line 1: No module named 'wandbb'\)"),
        (LOUD.replace("def begin(self, *given)", "def __init__(self, project)"), r"Mine\(\) must take no argument"),
    ],
)
def test_what_is_none_is_refused_before_anything_starts(
    text: str | None, words: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=words):
        contray.train(config(store, track__listeners="mine.py", scale__workers=(1, 1)))
    assert not (tmp_path / "runs").exists()


def test_a_saved_config_names_nobody_and_a_namesake_stands_in(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_named", {})
    monkeypatch.chdir(tmp_path)
    text = config(store).to_yaml().replace("listeners: []", "listeners: [/theirs/csv_listener.py]")
    with pytest.raises(
        UserError, match=r"track\.listeners: the config names the code /theirs/csv_listener\.py, and only code that you name"
    ):
        contray.train(RunConfig.from_yaml(text))
    assert not (tmp_path / "runs").exists()
    shutil.copy(EXAMPLE, tmp_path)
    registry.name_code("csv_listener.py")
    mine = RunConfig.from_yaml(text)
    assert mine.track.listeners == registry.code_of(mine) == (str(tmp_path / "csv_listener.py"),)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray", "ignore::ResourceWarning")
def test_own_parts_travel_to_ray_s_workers(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and listeners, by path and as entry points of packages that the nodes have; one listener fails at everything."""
    monkeypatch.setattr(registry, "_named", {})
    monkeypatch.chdir(tmp_path)
    for group, name, example in (("sources", "arrays", "numpy_array"), ("listeners", "curves", "csv_listener")):
        site = tmp_path / name
        site.mkdir()
        text = (EXAMPLES / f"{example}.py").read_text().replace("{run.name}.csv", "theirs-{run.name}.csv")
        (site / f"others_{name}.py").write_text(text)
        install(site, f"contray.{group}", monkeypatch, **{name: f"others_{name}"})
        shutil.copy(EXAMPLES / f"{example}.py", tmp_path)
    (tmp_path / "loud.py").write_text(LOUD)
    images(tmp_path / "set.npz")
    with ray_session(config(store, scale__workers=(1, 1))):
        results = {}
        for source, section in (("numpy_array.py", "numpy_array"), ("arrays", "arrays")):
            given = TINY | {
                "track.uri": store, "scale.storage": "runs", "scale.workers": (1, 1), "data.source": source, f"data.{section}.path": "set.npz",
                "track.listeners": ["csv_listener.py", "curves", "loud.py"],
            }  # fmt: skip
            results[source] = contray.train(RunConfig.make("simclr", given, preset="digits"))
    for result in results.values():
        assert result.finished
        mine, theirs = rows(Path(f"{result.name}.csv")), rows(Path(f"theirs-{result.name}.csv"))
        assert mine == theirs
        assert [step for step, name, _ in mine if name == "loss"] == ["1", "2", "3", "4"]
        assert mine[-1] == ("4", "status", "finished")
        assert "listener loud failed" in track.attach(store, result.run_id).results()[1]["contray.trouble"]
    assert results["arrays"].metrics["linear_top1"] == results["numpy_array.py"].metrics["linear_top1"]
