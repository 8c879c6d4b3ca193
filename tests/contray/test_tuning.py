"""Sweeps as a user meets them: ranked trials under one MLflow run, failures, interrupts, budgets, populations and trials of several workers."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contray import track
from contray.cli.results import show_sweep
from contray.config import RunConfig
from contray.errors import UserError
from contray.storage.folder import Storage
from contray.training.ray_train import ray_session
from contray.tuning import SweepResult, sweep
from tests.object_store import BUCKET, serving
from tests.stores import fresh

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # Tune's own, of a search that was interrupted
]
METRICS = {"knn_val_top1", "linear_val_top1", "rankme"}  # that trials may be ranked on
TEST_METRICS = {prefix + name for prefix in ("", "random_", "pixels_") for name in ("knn_top1", "linear_top1")}
TINY = {
    "data.size": 16,
    "data.renderings": 1,
    "data.workers": 0,
    "views.view.size": 16,
    "backbone.width": 4,
    "method.projector_hidden": 16,
    "method.projector_dim": 8,
    "optim.name": "sgd",
    "train.batch_size": 64,
    "train.precision": "fp32",
    "train.steps": 8,
    "train.device": "cpu",
    "eval.every_epochs": 0.1,  # of 22 steps: every 2 steps
    "eval.online_limit": 128,
    "eval.linear.epochs": 2,
    "eval.linear.lrs": (1.0,),
    "eval.linear.decays": (0.0,),
    "scale.workers": (0, 0),
    "scale.cpus_per_worker": 1,
}


@dataclass(frozen=True)
class Place:
    """A folder with an MLflow store, a space file and where sweeps are kept."""

    folder: Path

    @property
    def uri(self) -> str:
        return fresh(self.folder)

    def sweep(self, space: str, settings: dict[str, Any] | None = None, **options: Any) -> SweepResult:
        """Search a space written as the text of a Python dict of dotted keys to domains, and show it as the command does."""
        file = self.folder / "mine.py"
        file.write_text(f'from ray import tune\nABOUT = "mine"\nMETHOD = "simclr"\nBASE = {TINY}\nSPACE = {{{space}}}\n')
        keys = {"scale.storage": str(self.folder / "runs"), "track.uri": self.uri, **(settings or {})}
        result = sweep(str(file), keys, **{"preset": "digits", "concurrent": 1, "scheduler": "none", **options})
        show_sweep(result)
        return result

    def runs(self) -> tuple[Any, list[Any]]:
        """(the sweep's run, its children) in MLflow."""
        with track.asking(self.uri, "reading") as talk:
            (experiment,) = talk.search_experiments(filter_string="name = 'contray'")
            runs = talk.search_runs([experiment.experiment_id])
        (parent,) = (run for run in runs if run.data.tags["contray.kind"] == "sweep")
        children = [run for run in runs if run is not parent]
        assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in children)
        return parent, children


@dataclass(frozen=True)
class Evil:
    """Touches a file when it is unpickled."""

    path: Path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def records(folder: Path) -> list[dict[str, Any]]:
    """What is on record of the trials, in the order of their numbers."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("runs/tune-mine-*/*/run.json"))]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One cluster for all; trials of several workers need the dashboard, and an object store whose processes know where it is."""
    with serving(), ray_session(RunConfig.make("simclr", {"scale.workers": (2, 2)}), dashboard=True):
        yield
    gc.collect()  # here, where the warning of Tune's open files is expected


@pytest.fixture
def place(tmp_path: Path, store: str) -> Place:
    return Place(tmp_path)


def test_a_sweep_ranks_its_trials_and_opens_the_test_set_for_the_winner(
    ray: None, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    space = '"optim.lr": tune.grid_search([1e4, 0.1, 1e6, 1e30]), "train.batch_size": tune.grid_search([64, 4096])'
    result = place.sweep(space, scheduler="asha")

    out = capsys.readouterr().out
    assert "train.batch_size: 4096 left out (got 4096, but digits has" in out
    assert "Number of trials" not in out, "Tune's own tables"
    ended = {trial.params["optim.lr"]: trial for trial in result.trials}
    assert {lr: trial.status for lr, trial in ended.items()} == {1e4: "finished", 0.1: "finished", 1e6: "stopped", 1e30: "failed"}
    assert ended[1e30].problem.startswith("step 3: loss or gradients are not finite")
    assert "loss or gradients are not finite" in " ".join(out.split()), "the table says why a trial failed"
    assert [trial.status for trial in result.trials] == ["finished", "finished", "stopped", "failed"]
    assert result.trials[0].metrics["linear_val_top1"] >= result.trials[1].metrics["linear_val_top1"]
    assert result.best is result.trials[0]

    parent, children = place.runs()
    assert result.run_id == parent.info.run_id
    runs = {float(run.data.params["optim.lr"]): run for run in children}
    statuses = {1e4: "FINISHED", 0.1: "FINISHED", 1e6: "KILLED", 1e30: "FAILED"}
    assert {lr: run.info.status for lr, run in runs.items()} == statuses
    for lr, run in runs.items():
        assert run.info.run_id == ended[lr].run_id
        for tag in ("contray.dataset", "contray.images", "mlflow.user", "contray.host"):
            assert run.data.tags[tag] == parent.data.tags[tag], tag
        assert run.data.params["train.batch_size"] == "64"
        assert run.data.metrics["knn_val_top1"] == ended[lr].metrics["knn_val_top1"]
        assert run.info.run_name == f"trial {int(Path(ended[lr].folder).name):02d}: lr={lr:.4g}, batch_size=64"
        assert TEST_METRICS & run.data.metrics.keys() == (TEST_METRICS if ended[lr] is result.best else set())
    key = result.url.partition("viewStateShareKey=")[2]
    assert f"mlflow.sharedViewState.{key}" in track.client(place.uri).get_experiment(parent.info.experiment_id).tags
    assert [each.dataset.name for each in parent.inputs.dataset_inputs] == ["digits", "digits test"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics.keys() >= TEST_METRICS | METRICS
    assert float(parent.data.params["best.optim.lr"]) == result.best.params["optim.lr"]
    assert parent.data.params["optim.lr"] == "each of 10000.0, 0.1, 1000000.0, 1e+30"

    assert result.best_config is not None
    winner = RunConfig.from_yaml(Path(result.best_config).read_text())
    assert winner.optim.lr == result.best.params["optim.lr"]
    searched = {**TINY, **result.best.params}
    assert winner.digest("scale", "track") == RunConfig.make("simclr", searched, preset="digits").digest("scale", "track")
    assert Path(result.plots).name == "parameters.png"
    assert Path(result.plots).stat().st_size > 10_000


def test_an_interrupted_sweep_goes_on_where_it_was(ray: None, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    space, options = '"optim.lr": tune.loguniform(0.01, 1.0)', {"samples": 3, "quiet": True}
    beside: list[str] = []

    def interrupt() -> None:
        while not list(place.folder.glob("runs/tune-mine-*/*/ended.json")):
            time.sleep(0.05)
        for resume in (False, True):
            try:
                place.sweep(space, **options, resume=resume)
            except UserError as error:
                beside.append(str(error))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        place.sweep(space, **options)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(beside) == 2, "a second driver of a live sweep was not refused"
    for word in beside:
        assert re.match(rf"track\.name: tune-mine-.* is being trained by process {os.getpid()} on ", word)
    parent, children = place.runs()
    assert parent.info.status == "KILLED"
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}
    done = {path: path.stat().st_mtime_ns for path in place.folder.glob("runs/*/*/ended.json")}
    assert 1 <= len(done) < 3

    with pytest.raises(UserError, match=r"--resume: tune-mine-.* was begun otherwise: samples \(3 -> 2\); more are added"):
        place.sweep(space, **options | {"samples": 2}, resume=True)
    pickled = list(place.folder.glob("runs/**/*.pkl"))
    assert pickled, "Ray pickles no more what it was to be kept from reading"
    for path in pickled:
        path.write_bytes(pickle.dumps(Evil(place.folder / "ran")))
    params = [trial["params"] for trial in records(place.folder)]
    options["samples"] = 4
    result = place.sweep(space, **options, resume=True)

    assert not (place.folder / "ran").exists(), "the storage's pickles ran"
    assert [trial["params"] for trial in records(place.folder)][: len(params)] == params
    assert len({str(trial["params"]) for trial in records(place.folder)}) == 4, "drawn again what had been drawn"
    assert {path: path.stat().st_mtime_ns for path in done} == done, "a finished trial was trained again"
    again, children = place.runs()
    assert again.info.run_id == result.run_id == parent.info.run_id
    assert [run.info.status for run in [again, *children]] == ["FINISHED"] * 5
    assert {trial.run_id for trial in result.trials} == {run.info.run_id for run in children}
    with pytest.raises(UserError, match=r"--resume: tune-mine-.* is finished"):
        place.sweep(space, **options, resume=True)
    assert "Optuna" not in "".join(capsys.readouterr())


def test_rankme_ranks_trials_without_labels(ray: None, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"data.label_column": ""}
    space = '"optim.lr": tune.grid_search([1e-3, 1.0])'
    with pytest.raises(UserError, match=r"digits has no labels, and linear_val_top1 ranks on held-out labels; --metric rankme"):
        place.sweep(space, settings)
    result = place.sweep(space, settings, metric="rankme")
    out = capsys.readouterr().out
    assert [trial.status for trial in result.trials] == ["finished", "finished"]
    ranks = [trial.metrics["rankme"] for trial in result.trials]
    assert ranks[0] > ranks[1]
    assert f"{ranks[0]:.1f}" in out
    parent, children = place.runs()
    assert parent.data.metrics["rankme"] == ranks[0]
    assert not TEST_METRICS & parent.data.metrics.keys()
    assert {run.data.metrics["rankme"] for run in children} == set(ranks)
    assert Path(result.plots).stat().st_size > 10_000


def test_a_time_budget_ends_trials_that_never_would(ray: None, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    result = place.sweep(
        '"optim.lr": tune.loguniform(0.01, 1.0)', {"train.steps": 1_000_000}, samples=50, minutes=0.2, concurrent=2
    )
    assert time.monotonic() - began < 60
    assert result.best is None
    assert result.best_config is None
    assert {trial.status for trial in result.trials} <= {"stopped"}
    parent, children = place.runs()
    assert parent.info.status == "FINISHED"
    assert {run.info.status for run in children} <= {"KILLED"}
    assert "no trial finished" in capsys.readouterr().out


def test_a_population_takes_over_the_better_state(ray: None, place: Place) -> None:
    space = '"optim.lr": tune.grid_search([0.1, 1e4]), "method.temperature": tune.uniform(0.1, 1.0)'
    result = place.sweep(space, scheduler="pbt", concurrent=2, quiet=True)
    assert [trial.status for trial in result.trials] == ["finished", "finished"]
    _, children = place.runs()
    taken = {run.info.run_id: run.data.tags.get("contray.taken_over", "") for run in children}
    names = {trial.run_id: trial.name for trial in result.trials}
    moved = {names[run_id]: word for run_id, word in taken.items() if word}
    assert moved
    for name, word in moved.items():
        (other,) = set(names.values()) - {name}
        assert word.startswith(f"trial {other} at step ")
    for trial in result.trials:
        (run,) = (run for run in children if run.info.run_id == trial.run_id)
        assert float(run.data.params["method.temperature"]) == trial.params["method.temperature"]
        assert run.data.metrics["linear_val_top1"] == trial.metrics["linear_val_top1"]


def test_accuracy_against_time_on_an_object_store(ray: None, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    storage, space = f"s3://{BUCKET}/runs", '"optim.lr": tune.loguniform(0.01, 1.0)'
    settings = {"scale.storage": storage}
    result = place.sweep(space, settings, samples=2, against="seconds")
    out = capsys.readouterr().out
    assert f"{result.name}: ranked on linear_val_top1, against seconds" in out
    assert [trial.status for trial in result.trials] == ["finished", "finished"]
    assert all(trial.folder == f"{storage}/{result.name}/{trial.name}" for trial in result.trials)
    parent, children = place.runs()
    for trial in result.trials:
        (run,) = (run for run in children if run.info.run_id == trial.run_id)
        assert 0 < trial.metrics["seconds"] == run.data.metrics["seconds"] < 60
        assert 0.1 < trial.metrics["memory_gb"] < 10
    assert result.best is not None
    assert result.front[0] == result.best.name
    kept = Storage(f"{storage}/{result.name}")
    assert result.best_config == f"{kept.address}/best.yaml"
    winner = RunConfig.from_yaml(kept.read("best.yaml").decode())
    assert winner.optim.lr == result.best.params["optim.lr"]
    pictures = {"parameters.png", "pareto.png"}
    assert {str(each) for each in result.pictures} == {f"{kept.address}/{name}" for name in pictures}
    assert track.attach(place.uri, parent.info.run_id).kept() >= {*pictures, "best.yaml"}

    with pytest.raises(UserError, match=rf"--resume: {result.name} is finished"):
        place.sweep(space, settings, samples=2, against="seconds", resume=True)
    again = place.sweep(space, settings, samples=1, against="seconds", warm=result.name)
    assert f"2 of the 2 finished trials of {result.name} are known to the search" in capsys.readouterr().out
    assert (again.name, [trial.status for trial in again.trials]) == (f"{result.name}-2", ["finished"])


DIES = """
import os
from pathlib import Path

from contray.methods.simclr import PAPER, PRESETS, RECIPE, VIEWS, Config, SimCLR


class Dies(SimCLR):
    def after_backward(self, clock):
        super().after_backward(clock)
        if clock.step == 5:
            try:
                Path("{marker}").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), 9)
"""


def test_a_trial_that_dies_with_its_process_goes_on(ray: None, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """As on a spot node that is taken away: the sweep does not end without it."""
    method = place.folder / "dies.py"
    method.write_text(DIES.format(marker=place.folder / "died"))
    space = '"optim.lr": tune.grid_search([0.1, 0.2])'
    result = place.sweep(space, {"method.name": str(method), "train.checkpoint_steps": 4}, quiet=True)
    assert "1 trial that died with its process or node goes on from the newest checkpoint" in capsys.readouterr().out
    assert {(trial.params["optim.lr"], trial.status, trial.step) for trial in result.trials} == {
        (0.1, "finished", 8),
        (0.2, "finished", 8),
    }
    _, children = place.runs()
    assert [run.info.status for run in children] == ["FINISHED"] * 2, "no run of its own for its second life"


def test_trials_of_two_workers(ray: None, place: Place) -> None:
    result = place.sweep('"method.temperature": tune.loguniform(0.1, 1.0)', {"scale.workers": (2, 2)}, quiet=True)
    (trial,) = result.trials
    assert trial.status == "finished", trial.problem
    assert trial.step == 8
    _, (run,) = place.runs()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["linear_val_top1"] == trial.metrics["linear_val_top1"]
    assert result.best is not None


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"eval.final": ()}, {}, "eval.final: names no evaluation"),
        ({"views.first.source": "depth"}, {}, "views.first.source"),
        ({}, {"metric": "linear_top1"}, "the test set selects nothing"),
        ({}, {"against": "money"}, "got money, must be seconds, memory_gb, images_per_second"),
        ({}, {"against": "seconds", "scheduler": "asha"}, "asha judges by accuracy alone"),
        ({}, {"warm": "nothing"}, "there is no run 'nothing'"),
        ({}, {"scheduler": "pbt"}, "this space has no key that may change on the way"),
        ({}, {"resume": True}, "there is no sweep"),
    ],
)
def test_refused_before_anything_starts(place: Place, settings: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        place.sweep('"backbone.width": tune.choice([4, 8])', settings, **options)


@pytest.mark.parametrize("key", ["train.init", "train.init_layout", "method.teacher"])
def test_no_space_searches_weights(place: Place, key: str) -> None:
    file, method = place.folder / "weights.py", "distill" if key.startswith("method.") else "simclr"
    file.write_text(f'ABOUT = "mine"\nMETHOD = "{method}"\nBASE = {{}}\nSPACE = {{"{key}": {{"grid_search": ["a", "b"]}}}}\n')
    with pytest.raises(UserError, match=f"{key}: no space can search it"):
        sweep(str(file), {}, preset="digits")


def test_a_config_that_is_no_text(place: Place) -> None:
    file = place.folder / "run.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"run\.yaml cannot be read as text") as caught:
        place.sweep('"optim.lr": tune.choice([0.1])', config_file=file)
    assert "\n" not in str(caught.value)
