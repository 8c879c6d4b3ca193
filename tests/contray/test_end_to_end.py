"""The main job as a user meets it: from images to a verdict in MLflow, and what happens when it is stopped, killed or spread over workers.

One and two Ray workers are compared over 30 steps of MoCo; CONTRAY_PARITY_STEPS sets another length and adds SimCLR:

    CONTRAY_PARITY_STEPS=200 pytest tests/contray/test_end_to_end.py -k workers -s
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import contray
from contray import RunConfig, data, model, track
from contray.cli import main
from contray.evaluation.common.features import features_of
from contray.evaluation.common.tables import GEOMETRY
from contray.model.encoder import read_checkpoint
from contray.storage.checkpoint import latest
from contray.storage.folder import Storage
from contray.training.describing import title_of
from contray.training.launch import launch
from contray.training.progress import TrainingBar
from contray.training.ray_train import ray_session
from contray.training.result import Result
from tests.stores import fresh

REPO = Path(__file__).parents[2]
VERDICT = [prefix + name for prefix in ("", "random_", "pixels_") for name in ("knn_top1", "knn_val_top1", "linear_top1", "linear_val_top1")]  # fmt: skip
MEASURED = VERDICT + [prefix + name for prefix in ("", "random_") for name in GEOMETRY]
LONG = os.environ.get("CONTRAY_PARITY_STEPS", "")
STEPS = 30  # 22 are an epoch
TINY = {
    "data.size": 16,
    "data.renderings": 1,
    "data.workers": 0,
    "views.view.size": 16,
    "backbone.width": 4,
    "method.projector_hidden": 16,
    "method.projector_dim": 8,
    "train.batch_size": 64,
    "train.precision": "fp32",
    "train.steps": STEPS,
    "train.log_every": 1,
    "train.checkpoint_steps": 2,
    "train.checkpoint_seconds": 1e6,
    "eval.every_epochs": 0.5,
    "eval.linear.epochs": 2,
    "eval.linear.lrs": (1.0,),
    "eval.linear.decays": (0.0,),
    "scale.workers": (0, 0),
    "scale.cpus_per_worker": 1,
}


@dataclass(frozen=True)
class Place:
    """A folder with an MLflow store of its own, and where runs are kept in it."""

    folder: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def keys(self) -> dict[str, Any]:
        return {"scale.storage": str(self.folder / "runs"), "track.uri": self.uri}

    def run(self, run_id: str) -> track.TrackedRun:
        return track.attach(self.uri, run_id)

    def losses(self, run_id: str) -> list[tuple[int, float]]:
        return sorted(self.run(run_id).history("loss"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    fresh(folder)
    return Place(folder)


@pytest.fixture
def here(store: str, tmp_path: Path) -> Place:
    """A place for one test."""
    return Place(tmp_path)


@pytest.fixture(scope="module")
def config(place: Place) -> RunConfig:
    return RunConfig.make("simclr", {**TINY, **place.keys}, preset="digits")


@pytest.fixture(scope="module")
def trained(config: RunConfig) -> Result:
    """The undisturbed run that others are compared with."""
    return contray.train(config, quiet=True)


def words(keys: Mapping[str, Any], method: str = "simclr") -> list[str]:
    """The command line of `contray train` with these dotted keys."""
    options = []
    for key, value in keys.items():
        options += [f"--{key}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return ["train", method, "--preset", "digits", *options]


def run_id_of(printed: str) -> str:
    return printed.partition("MLflow run")[2].split()[0]


# ---------------------------------------------------------------- a run and what MLflow has of it


def test_the_verdict_has_every_number(place: Place, trained: Result) -> None:
    assert trained.finished
    assert trained.step == STEPS
    assert sorted(trained.metrics) == sorted(MEASURED)
    assert all(0 <= trained.metrics[name] <= 1 for name in VERDICT)
    logged = track.client(place.uri).get_run(trained.run_id).data.metrics
    assert {name: logged[name] for name in MEASURED} == trained.metrics
    for name in MEASURED:
        assert place.run(trained.run_id).history(name)[-1] == (STEPS, trained.metrics[name])


def test_mlflow_has_params_curves_and_tags(place: Place, config: RunConfig, trained: Result) -> None:
    run = track.client(place.uri).get_run(trained.run_id)
    assert trained.name == config.run_name == run.data.tags["contray.name"]
    assert run.info.run_name == title_of(config, trained.name)
    assert f"contray.load('{trained.run_id}')" in run.data.tags["mlflow.note.content"]
    assert run.inputs
    assert {each.dataset.name: each.tags[0].value for each in run.inputs.dataset_inputs} == {
        "digits": "training",
        "digits test": "test",
    }
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        key: str(value) for key, value in model.settled(config, model.device_of(config).type).flat().items()
    }
    for name in ("loss", "lr", "images_per_second", "grad_norm"):
        steps = [step for step, _ in place.run(trained.run_id).history(name)]
        assert sorted(steps) == list(range(1, STEPS + 1)), name
    assert sorted(step for step, _ in place.run(trained.run_id).history("knn_val_top1")) == [11, 22, STEPS]
    tags = run.data.tags
    told = {key: tags[f"contray.{key}"] for key in ("kind", "method", "preset", "dataset", "worlds")}
    assert told == {"kind": "run", "method": "simclr", "preset": "digits", "dataset": "digits", "worlds": "1"}
    head = subprocess.run(["git", "-C", str(REPO), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode == 0:
        assert tags["mlflow.source.git.commit"].rstrip("+") == head.stdout.strip()


def test_mlflow_has_the_artifacts(place: Place, config: RunConfig, trained: Result, tmp_path: Path) -> None:
    talk = track.client(place.uri)
    assert {file.path for file in talk.list_artifacts(trained.run_id)} == {
        "config.yaml",
        "curves.png",
        "neighbours.png",
        "views.png",
    }
    saved = talk.download_artifacts(trained.run_id, "config.yaml", str(tmp_path))
    assert RunConfig.from_yaml(Path(saved).read_text()) == model.settled(config, model.device_of(config).type)
    with Image.open(talk.download_artifacts(trained.run_id, "views.png", str(tmp_path))) as grid:
        assert min(grid.size) > 100


def test_the_loaded_encoder_is_the_trained_one(place: Place, config: RunConfig, trained: Result) -> None:
    images, ids = data.open_source(config.data).test, range(20)
    assert images is not None
    state = latest(Storage(trained.checkpoint))
    assert state is not None
    method = model.build(config, int(state["method"]["samples"]))
    method.load_state_dict(state["method"])
    expected, _ = features_of(config, method, images, ids, torch.device("cpu"))
    pixels = [images.image(i, None) for i in ids]

    encoder = contray.load(trained.run_id, uri=place.uri)

    assert_close(encoder(pixels), expected, rtol=1e-5, atol=1e-6)
    outputs = track.client(place.uri).get_run(trained.run_id).outputs
    assert outputs is not None
    assert outputs.model_outputs
    kept = track.client(place.uri).get_logged_model(outputs.model_outputs[0].model_id)
    from mlflow.pyfunc import load_model

    served = load_model(kept.artifact_location)
    assert served.metadata.metadata == trained.metrics
    assert_close(torch.from_numpy(served.predict(np.stack(pixels))), expected, rtol=1e-5, atol=1e-6)


def test_the_saved_config_repeats_the_run_under_the_next_name(place: Place, trained: Result) -> None:
    assert main(["train", "--quiet", "--config", f"{trained.checkpoint}/config.yaml", "--track.model", "false"]) == 0
    talk = track.client(place.uri)
    runs = {run.data.tags["contray.name"]: run for run in talk.search_runs([talk.get_run(trained.run_id).info.experiment_id])}
    again = runs[f"{trained.name}-2"]
    assert place.losses(again.info.run_id) == place.losses(trained.run_id)
    assert {name: again.data.metrics[name] for name in MEASURED} == trained.metrics


def test_seeds_are_children_of_a_run_with_the_means(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {**TINY, **place.keys, "train.steps": 2, "track.experiment": "seeds", "track.model": "false"}
    assert main([*words(keys), "--seeds", "2"]) == 0
    assert "mean ± std" in capsys.readouterr().out
    talk = track.client(place.uri)
    found = talk.get_experiment_by_name("seeds")
    assert found is not None
    runs = talk.search_runs([found.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.params["seed"] for run in children} == {"0", "1"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for name in VERDICT:
        mean = sum(run.data.metrics[name] for run in children) / 2
        assert parent.data.metrics[name] == pytest.approx(mean), name


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_eval_measures_what_training_measured(
    protocol: str, place: Place, trained: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = f"{100 * trained.metrics[f'{protocol}_top1']:.1f}"
    for where in (["--run", trained.run_id, "--track.uri", place.uri], ["--checkpoint", trained.checkpoint]):
        assert main(["eval", protocol, *where]) == 0
        (row,) = [line for line in capsys.readouterr().out.splitlines() if "trained encoder" in line and "untrained" not in line]
        assert shown in row
    history = place.run(trained.run_id).history(f"{protocol}_top1")
    assert {value for _, value in history} == {trained.metrics[f"{protocol}_top1"]}
    assert sorted(step for step, _ in history) == [0, STEPS]


def test_evaluations_that_train_land_in_the_run_and_in_the_comparison(
    place: Place, trained: Result, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    where = ["--run", trained.run_id, "--track.uri", place.uri]
    quick = ["--epochs", "1", "--lrs", "0.1"]
    for command in ("paper", "attentive", "finetune --labels 5-per-class"):
        assert main(["eval", *command.split(), *where, *quick]) == 0
    assert main(["eval", "supervised", *where, "--eval.supervised.lrs", "1e-3"]) == 0
    taught = ["--labels", "5-per-class", "--backbone.width", "2", "--epochs", "1", "--finetune-epochs", "1", "--lrs", "1e-3"]
    assert main(["eval", "distill", *taught, *where]) == 0
    metrics = place.run(trained.run_id)
    for name in (
        "linear_paper",
        "attentive",
        "finetune_5perclass",
        "scratch_5perclass",
        "supervised",
        "distill_5perclass_width2",
    ):
        ((step, value),) = metrics.history(f"{name}_top1")
        assert step == 0
        assert 0 < value < 1
    assert main(["eval", "last_n", *where]) == 2
    assert main(["eval", "finetune", "--labels", "half", *where]) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("contray: ")]
    assert len(lines) == 2
    assert "no transformer blocks" in lines[0]
    assert "--labels: got 'half'" in lines[1]
    assert main(["compare", "--run", trained.run_id, "--track.uri", place.uri, "--out", str(tmp_path / "compare.png")]) == 0
    told = capsys.readouterr().out
    for name in ("paper", "attentive", "finetune", "scratch", "5perclass", "supervised", "distill"):
        assert name in told


# ---------------------------------------------------------------- killed, interrupted, terminated


@pytest.mark.parametrize(("number", "code", "status"), [(signal.SIGKILL, -9, "RUNNING"), (signal.SIGINT, 130, "KILLED")])
def test_a_disturbed_run_goes_on_as_if_nothing_had_been(
    number: int, code: int, status: str, place: Place, trained: Result, here: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    command = words({**TINY, **here.keys, "track.model": "false"})
    folder = here.folder / "runs" / trained.name
    with subprocess.Popen([sys.executable, "-m", "contray", *command], cwd=here.folder) as process:
        while not list(folder.glob("step-*[4-9].pt")):
            assert process.poll() is None, capfd.readouterr().err
            time.sleep(0.002)
        process.send_signal(number)
        assert process.wait(60) == code, capfd.readouterr().err
    assert ("stopped at step" in capfd.readouterr().out) == (number == signal.SIGINT)
    newest = max(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt"))
    assert 4 <= newest < 22, "the run was to be met within its first epoch"
    assert the_run_of(here).info.status == status

    assert main(command) == 0

    assert f"going on with {trained.name}" in capfd.readouterr().out
    assert_undisturbed(here, place, trained)


def test_sigterm_stops_as_ctrl_c_does(
    place: Place, trained: Result, here: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words({**TINY, **here.keys, "track.model": "false"})
    before = signal.getsignal(signal.SIGTERM)  # Ray's, where an earlier test has started it in this process

    def show(bar: TrainingBar, message: dict[str, Any]) -> None:
        if message.get("step") == 5:
            assert signal.getsignal(signal.SIGTERM) is not before, "it would end the tests"
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBar, "show", show)
        assert main(command) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped at step 6 with a checkpoint" in capsys.readouterr().out
    assert the_run_of(here).info.status == "KILLED"

    assert main(command) == 0

    assert_undisturbed(here, place, trained)


def assert_undisturbed(here: Place, place: Place, trained: Result) -> None:
    """The run of `here` went on in the same MLflow run, each step is there once, and all is bit-equal to the undisturbed run's."""
    run = the_run_of(here)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in here.losses(run.info.run_id)] == list(range(1, STEPS + 1))
    assert here.losses(run.info.run_id) == place.losses(trained.run_id)
    assert {name: run.data.metrics[name] for name in MEASURED} == trained.metrics


def the_run_of(place: Place) -> Any:
    talk = track.client(place.uri)
    (run,) = talk.search_runs([found.experiment_id for found in talk.search_experiments()])
    return run


# ---------------------------------------------------------------- workers


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
@pytest.mark.skipif(
    not LONG, reason="CONTRAY_PARITY_STEPS=200 asks for it; tests/elastic holds two workers against none in every run"
)
@pytest.mark.parametrize("method", ["moco", "simclr"])  # moco has the more state: queue, EMA, norm groups
def test_one_and_two_ray_workers_compute_the_same(method: str, here: Place) -> None:
    steps = int(LONG)
    own = {
        "simclr": {},
        "moco": {"views.query.size": 16, "views.key.size": 16, "method.queue_size": 130, "method.dim": 8, "train.norm_groups": 2},
    }
    keys = {key: value for key, value in TINY.items() if method == "simclr" or not key.startswith(("views.", "method."))}
    keys |= {
        "train.batch_size": 65, "train.precision": "fp64", "train.steps": steps, "train.checkpoint_steps": 0, "eval.every_epochs": 0,
        "eval.final": (), "track.model": False,
        "optim.name": "sgd",  # AdamW would hide gradients that are off by a constant factor
        "optim.lr": 0.003,  # at 0.1 this little network is chaotic: rounding grows by a fifth each step, on any one world as well
    }  # fmt: skip
    states, losses = [], []
    with ray_session(RunConfig.make(method, {"scale.workers": (2, 2)})):
        for world in (1, 2):
            sizes = {"scale.workers": (world, world), "track.name": f"{method}-{world}"}
            result = launch(RunConfig.make(method, {**keys, **own[method], **here.keys, **sizes}, preset="digits"), quiet=True)
            assert result.details["worlds"] == [world]
            assert track.client(here.uri).get_run(result.run_id).data.tags["contray.worlds"] == str(world)
            states.append(read_checkpoint(result.checkpoint).method.state_dict())
            losses.append(here.losses(result.run_id))
    assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]] == list(range(1, steps + 1))
    apart = max(abs(one - two) / abs(one) for (_, one), (_, two) in zip(*losses, strict=True))
    weights = {
        name: float((one - states[1][name]).norm() / one.norm().clamp(min=1e-30))
        for name, one in states[0].items()
        if one.is_floating_point()
    }
    worst = max(weights, key=weights.__getitem__)
    print(f"\n{method}, {steps} steps: losses differ by {apart:.2g}, weights by {weights[worst]:.2g} ({worst}), relatively")
    assert math.isfinite(apart)
    assert apart < 1e-9
    assert weights[worst] < 1e-9, worst


# ---------------------------------------------------------------- images without labels, images that are broken


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """81 images without classes, one of them no image."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(80):
        Image.fromarray(rng.integers(0, 255, (16, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_a_folder_without_labels_is_trained_on(
    photos: Path, place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keys = {**TINY, **place.keys, "data.source": photos, "train.batch_size": 27, "train.steps": 6, "track.experiment": "photos"}
    assert main(words(keys)) == 0
    told = capsys.readouterr().out
    assert "no labels" in told.partition("effective rank (RankMe)")[2], "the verdict says what it stands on"
    assert f"replaced a broken image: {photos}/broken.jpg (" in told
    run_id = run_id_of(told)
    assert "loss" in track.client(place.uri).get_run(run_id).data.metrics
    metrics = track.client(place.uri).get_run(run_id).data.metrics
    assert not {"knn_top1", "knn_val_top1", "linear_top1"} & metrics.keys()
    assert metrics.keys() >= {*GEOMETRY, *(f"random_{name}" for name in GEOMETRY)}
    assert "effective rank (RankMe)" in told
    assert [step for step, _ in place.run(run_id).history("rankme")] == [1, 2, 4, 6]  # half an epoch are 2 steps

    assert main(["eval", "knn", "--run", run_id, "--track.uri", place.uri]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "has no labels" in err

    picture = tmp_path / "similar.png"
    assert main(["eval", "geometry", "--run", run_id, "--track.uri", place.uri, "--out", str(picture)]) == 0
    assert f"{metrics['rankme']:.3f}" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    assert "similar.png" in place.run(run_id).kept()
    assert {value for step, value in place.run(run_id).history("rankme") if step in (0, 6)} == {metrics["rankme"]}
