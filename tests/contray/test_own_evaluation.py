"""An evaluation of one's own, by path and by entry point: later, while a run trains, at its end, and as what trials are ranked on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import contray
from contray import RunConfig, data, model, track
from contray.cli import main
from contray.config import registry
from contray.errors import ConfigError, UserError
from contray.evaluation.common.run import finals, run
from contray.evaluation.common.watch import Watch
from contray.model import encoder
from contray.training.loop import Listener, train
from contray.training.ray_train import ray_session
from tests.contray.evaluations import CPU, evaluated, subject_of

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "nearest_centroid.py"
TINY = {
    "data.size": 16, "data.renderings": 1, "data.workers": 0, "views.view.size": 16, "backbone.width": 4, "method.projector_hidden": 16,
    "method.projector_dim": 8, "train.precision": "fp32", "train.device": "cpu", "train.batch_size": 64, "train.steps": 4,
    "scale.workers": (0, 0), "scale.cpus_per_worker": 1, "eval.every_epochs": 0.1, "eval.online_limit": 200, "track.model": False,
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The example in a folder of the user's."""
    monkeypatch.setattr(registry, "_named", {})
    return str(shutil.copy(EXAMPLE, tmp_path / "nearest_centroid.py"))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The example in an installed package, which offers it as `centroids`."""
    site = tmp_path / "site"
    (site / "theirs").mkdir(parents=True)
    (site / "theirs" / "__init__.py").touch()
    shutil.copy(EXAMPLE, site / "theirs" / "nearest.py")
    about = site / "theirs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[contray.evaluations]\ncentroids = theirs.nearest\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))  # of trials, which are processes of Ray's
    return "centroids"


@pytest.fixture
def keys(store: str, tmp_path: Path) -> dict[str, Any]:
    return {**TINY, "track.uri": store, "scale.storage": str(tmp_path / "runs")}


def words(keys: dict[str, Any]) -> list[str]:
    said = {key: " ".join(map(str, value)) if isinstance(value, tuple) else str(value) for key, value in keys.items()}
    return [word for key, value in said.items() for word in (f"--{key}", *value.split())]


def written(folder: Path, name: str, change: Callable[[str], str]) -> str:
    """The example with something else in it, under another name."""
    path = folder / f"{name}.py"
    path.write_text(change(EXAMPLE.read_text()))
    registry.name_code(str(path))
    return str(path)


def tiny(**more: Any) -> RunConfig:
    return RunConfig.make("simclr", {**TINY, **more}, preset="digits")


# ---------------------------------------------------------------- what it does


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 60


def test_it_finds_the_nearest_mean(own: str) -> None:
    registry.name_code(own)
    file = registry.find("evaluation", own)
    x, y = torch.tensor([[1.0, 0], [3, 0], [0, 1], [0, 5]]), torch.tensor([0, 0, 2, 2])
    queries = torch.tensor([[1.9, 0.5], [0.1, 9], [1, 1.1]])
    assert file.classify(x, y, queries, 3, file.Config()).tolist() == [0, 2, 2]
    assert file.classify(x, y, queries, 3, file.Config(metric="euclidean")).tolist() == [0, 2, 0]


def test_it_measures_a_stored_encoder_beside_others(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    encoder.export(config, model.build(config, 100), tmp_path / "encoder")
    where = ["--checkpoint", str(tmp_path / "encoder")]
    assert main(["eval", own, *where, "--metric", "euclidean"]) == 0
    said = capsys.readouterr().out
    assert "nearest_centroid_top1" in said
    assert "raw pixels" in said
    euclidean, cosine = (
        contray.evaluate(own, checkpoint=where[1], overrides={"eval.nearest_centroid.metric": metric})
        for metric in ("euclidean", "cosine")
    )
    assert euclidean != cosine
    assert euclidean.about["test_images"] > 0
    both = contray.evaluate(("knn", own), checkpoint=where[1])
    assert dict(cosine).items() <= dict(both).items()
    assert "knn_top1" in both


def test_features_are_encoded_once_for_all(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from contray.evaluation.common import features

    asked: list[list[str]] = []
    real = features.parts

    def counted(subject: Any, encoders: list[str]) -> Any:
        asked.append(encoders)
        return real(subject, encoders)

    monkeypatch.setattr(features, "parts", counted)
    registry.name_code(own)
    config = tiny(**{"eval.final": ("knn", "linear", own)})
    source = data.open_source(config.data)
    run(config.eval.final, subject_of(config, source, model.build(config, 100)))
    assert asked == [["", "random_", "pixels_"]]


@pytest.mark.parametrize("by", ["path", "entry point"])
def test_it_runs_online_and_at_the_end(
    by: str, own: str, installed: str, keys: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    name, part = (own, "nearest_centroid") if by == "path" else (installed, "centroids")
    keys |= {"eval.online": ("knn", "geometry", name), "eval.final": ("knn", name), f"eval.{part}.shrink": 0.1}
    assert main(["train", *words(keys)]) == 0
    said = capsys.readouterr().out
    assert "nearest_centroid_top1" in said
    (folder,) = Path(keys["scale.storage"]).iterdir()
    run_id = json.loads((folder / "run.json").read_text())["run_id"]
    history = track.attach(keys["track.uri"], run_id).history
    assert [step for step, _ in history("nearest_centroid_val_top1")] == [2, 4]
    assert [step for step, _ in history("random_nearest_centroid_top1")] == [4]
    assert RunConfig.from_yaml((folder / "config.yaml").read_text()).parts[f"eval.{part}"].shrink == 0.1


def test_training_is_as_if_it_had_not_measured(own: str) -> None:
    """An evaluation that draws at random, trains and leaves gradients behind."""
    change = "    torch.rand(3)\n    subject.method.train()\n    sum(p.sum() for p in subject.method.parameters()).backward()\n    found = {}\n"
    noisy = written(Path(own).parent, "noisy", lambda text: text.replace("    found = {}\n", change))
    config = tiny(**{"eval.online": (noisy,)})
    source = data.open_source(config.data)
    method = model.build(config, 100).train()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert "nearest_centroid_val_top1" in Watch(config, source, CPU, None)(method)
    assert torch.equal(torch.get_rng_state(), state)
    assert method.training
    assert all(p.grad is None for p in method.parameters())


@pytest.mark.parametrize(
    "line",
    [
        "with torch.no_grad(): next(subject.method.parameters()).mul_(2)",
        "next(subject.method.parameters()).data -= 0.1",
        "subject.method.backbone.conv1 = torch.nn.Conv2d(3, 4, 3)",
        "subject.method.train(); subject.features.__self__.method.backbone(torch.rand(4, 3, 16, 16))",
    ],
)
def test_what_it_changed_of_the_method_is_refused(line: str, own: str) -> None:
    spoils = written(Path(own).parent, "spoils", lambda text: text.replace("    found = {}\n", f"    {line}\n    found = {{}}\n"))
    config = tiny(**{"eval.online": (spoils,)})
    with pytest.raises(UserError, match=r"^evaluation .*spoils\.py: it changed the method that it measures"):
        Watch(config, data.open_source(config.data), CPU, None)(model.build(config, 100).train())


NASTY = """
    import random
    import numpy as np
    torch.manual_seed(1), random.seed(1), np.random.seed(1), torch.rand(3), np.random.rand(3)
    torch.set_grad_enabled(False)
    torch.set_grad_enabled(True)
    subject.method.train()
    import copy
    other = copy.deepcopy(subject.method)
    sum(p.sum() for p in other.parameters()).backward()
    torch.optim.SGD(other.parameters(), 1.0).step()
    sum(p.sum() for p in subject.method.parameters()).backward()
    subject.method.requires_grad_(False)
    torch.set_grad_enabled(False)
    found = {}
"""


def test_losses_and_weights_are_the_same_bits_whatever_is_measured(own: str) -> None:
    nasty = written(Path(own).parent, "nasty", lambda text: text.replace("    found = {}\n", NASTY))
    ended = []
    for online in ((), ("knn", "geometry"), (nasty,)):
        config = tiny(**{"eval.online": online, "train.log_every": 1})
        listener, told = Listener(), []
        listener.log = lambda step, values, told=told: told.append((step, values.get("loss")))
        outcome = train(config, data.open_source(config.data), None, listener)
        ended.append((outcome.method.state_dict(), [each for each in told if each[1] is not None]))
    for state, losses in ended[1:]:
        assert losses == ended[0][1]
        assert len(losses) == 4
        assert all(torch.equal(value, ended[0][0][name]) for name, value in state.items())


def test_trials_are_ranked_on_it(own: str, installed: str, keys: dict[str, Any], tmp_path: Path) -> None:
    """By path and by entry point."""
    space = tmp_path / "space.py"
    space.write_text(
        'from ray import tune\nABOUT = "t"\nMETHOD = "simclr"\nBASE = {"method.preset": "digits"}\n'
        'SPACE = {"method.temperature": tune.grid_search([0.1, 0.5])}\nSCHEDULER = "none"\n'
    )
    keys |= {"scale.workers": (1, 1)}
    with ray_session(tiny(**{"scale.workers": (1, 1)})):
        for name in (own, installed):
            measured = {"eval.final": (name,), "eval.online": (name,)}
            result = contray.tune(str(space), keys | measured, metric="nearest_centroid_val_top1", concurrent=1, quiet=True)
            assert [trial.status for trial in result.trials] == ["finished"] * 2, [trial.problem for trial in result.trials]
            values = [trial.metrics["nearest_centroid_val_top1"] for trial in result.trials]
            assert values == sorted(values, reverse=True)
            assert result.best is not None
            assert "nearest_centroid_top1" in result.best.metrics, "the test set is opened for the winner"
            assert all("nearest_centroid_top1" not in trial.metrics for trial in result.trials[1:])


# ---------------------------------------------------------------- whose code runs


def test_code_that_a_file_names_does_not_run(own: str, tmp_path: Path) -> None:
    registry.name_code(own)
    text = tiny(**{"eval.final": ("knn", own), "eval.nearest_centroid.shrink": 0.5}).to_yaml()
    registry._named.clear()
    with pytest.raises(ConfigError, match=r"^eval\.final: the config names the code .*nearest_centroid\.py"):
        RunConfig.from_yaml(text)
    known = RunConfig.from_yaml(text, {"eval.final": ("knn", own)})
    assert known.parts["eval.nearest_centroid"].shrink == 0.5
    registry._named.clear()
    encoders = RunConfig.from_yaml(text, encoder=True)  # its code is not needed to use the encoder
    assert encoders.eval.final == ("knn",)
    assert "eval.nearest_centroid" not in encoders.parts
    config = RunConfig.make("simclr", {**TINY, "eval.final": ("knn", own)}, preset="digits")
    encoder.export(config, model.build(config, 100), tmp_path / "encoder")
    registry._named.clear()
    assert encoder.read_checkpoint(str(tmp_path / "encoder")).config.eval.final == ("knn",)


def test_keys_of_what_is_not_measured_do_not_name_the_run(own: str) -> None:
    registry.name_code(own)
    config = tiny()
    assert config.run_name == config.replace({"eval.finetune.lrs": 1, "eval.detection.head": "c4"}).run_name
    assert config.run_name != config.replace({"eval.knn.k": 3}).run_name
    with_own = config.replace({"eval.final": ("knn", own)})
    assert with_own.run_name != config.run_name
    assert with_own.run_name != with_own.replace({"eval.nearest_centroid.shrink": 0.5}).run_name


# ---------------------------------------------------------------- what cannot serve


@pytest.mark.parametrize("export", ["ABOUT", "PAPER", "NEEDS", "METRICS", "Config", "evaluate"])
def test_what_a_file_lacks_is_named(export: str, own: str) -> None:
    file = written(
        Path(own).parent, "lacks", lambda text: text.replace(f"{export} = ", "OTHER = ").replace(f" {export}", " Other")
    )
    with pytest.raises(UserError, match=rf"evaluation .*lacks\.py: the file must define {export}"):
        tiny(**{"eval.final": (file,)})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("1 / 0", r"line \d+: ZeroDivisionError: division by zero"),
        ("[0.5]", r"evaluate must return numbers by name, it returned list"),
        ("{'a': 'high'}", r"a is of type str, must be a number"),
        ("{'a': torch.tensor(0.5)}", r"a is of type Tensor, must be a number"),
        ("{'a': True}", r"a is of type bool, must be a number"),
        ("{'a': float('nan')}", r"a is nan, must be a finite number"),
        ("{3: 0.5}", r"a metric is called 3"),
        ("{'top@1': 0.5}", r"a metric is called 'top@1'"),
    ],
)
def test_what_is_no_metric_is_refused_by_the_files_name(given: str, said: str, own: str) -> None:
    file = written(Path(own).parent, "wrong", lambda text: text.replace("    found = {}\n", f"    return {given}\n"))
    config = tiny(**{"eval.final": (file,)})
    source = data.open_source(config.data)
    method = model.build(config, 100)
    with pytest.raises(UserError, match=rf"^evaluation .*wrong\.py: {said}"):
        evaluated(file, config, source, method)
    metrics, problem = finals(subject_of(config.replace({"eval.final": (file, "knn")}), source, method))
    assert "wrong.py: " in problem, "a run that has trained is not lost"
    assert "knn_top1" in metrics


def test_of_several_evaluations_that_cannot_measure_each_says_why(own: str) -> None:
    files = [
        written(
            Path(own).parent, name, lambda text, name=name: text.replace("    found = {}\n", f"    return {{'{name}': True}}\n")
        )
        for name in ("odd", "strange")
    ]
    config = tiny(**{"eval.final": (*files, "knn")})
    source = data.open_source(config.data)
    metrics, problem = finals(subject_of(config, source, model.build(config, 100)))
    assert "odd.py: " in problem
    assert "strange.py: " in problem
    assert "knn_top1" in metrics


def test_numbers_of_numpy_are_numbers(own: str) -> None:
    change = "    import numpy as np\n    return {'a': np.float32(0.5), 'b': np.int64(2)}\n"
    file = written(Path(own).parent, "numpy_numbers", lambda text: text.replace("    found = {}\n", change))
    config = tiny(**{"eval.final": (file,)})
    source = data.open_source(config.data)
    assert dict(evaluated(file, config, source, model.build(config, 100))) == {"a": 0.5, "b": 2.0}


def test_names_that_are_taken_are_refused(own: str) -> None:
    folder = Path(own).parent
    with pytest.raises(UserError, match=r"eval\.knn: .*knn\.py has the name of another one"):
        tiny(**{"eval.final": (written(folder, "knn", str),)})
    with pytest.raises(UserError, match=r"eval\.crop: .*crop\.py has the name of a key of its section"):
        tiny(**{"eval.final": (written(folder, "crop", str),)})
    file = written(folder, "again", lambda text: text.replace('"{encoder}nearest_centroid_', '"{encoder}knn_'))
    config = tiny(**{"eval.final": ("knn", file)})
    source = data.open_source(config.data)
    with pytest.raises(UserError, match=r"^evaluation .*again\.py: knn_val_top1 is a metric of evaluation knn too"):
        evaluated(f"knn {file}", config, source, model.build(config, 100))


def test_what_trials_cannot_be_ranked_on_is_said(keys: dict[str, Any]) -> None:
    for metric, said in (
        ("attentive_val_top1", r"is of evaluation attentive; add that: --eval\.final knn linear geometry attentive"),
        ("knn_top1", r"must be knn_val_top1 or linear_val_top1 or rankme; the test set selects nothing"),
    ):
        with pytest.raises(UserError, match=rf"^--metric: .*{said}"):
            contray.tune("simclr", keys, metric=metric)
