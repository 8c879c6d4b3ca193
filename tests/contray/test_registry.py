"""MLflow's model registry: a run's encoder becomes a version, the best linear_top1 its champion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contray import RunConfig, model, track
from contray.cli import main
from contray.errors import UserError
from contray.model.encoder import export

Make = Callable[..., track.TrackedRun]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("encoder") / "encoder"
    config = RunConfig.make("simsiam", {"backbone.width": 4, "method.dim": 8, "method.hidden": 4}, preset="digits")
    export(config, model.build(config, 100).eval(), place)
    return place


@pytest.fixture
def measured(store: str, folder: Path) -> Make:
    def make(score: float | None, dataset: str = "digits", keeps: bool = True) -> track.TrackedRun:
        run = track.begin(store, "registry", "run", params={}, tags={"contray.dataset": dataset})
        if keeps:
            track.log_encoder(run, folder)
        if score is not None:
            run.log_metrics({"linear_top1": score}, step=0)
        return run

    return make


def champion(store: str, name: str = "digits") -> str:
    return track.client(store).get_model_version_by_alias(name, "champion").run_id or ""


def test_the_champion_is_the_best_linear_probe(store: str, measured: Make) -> None:
    first, worse, equal, better = (measured(score) for score in (0.7, 0.6, 0.7, 0.8))
    said = []
    for run, best in ((first, first), (worse, first), (equal, first), (better, better)):
        said.append(track.register(store, run.run_id, "digits"))
        assert champion(store) == best.run_id
    assert said == [
        "digits version 1: linear_top1 0.7000, the champion",
        "digits version 2: linear_top1 0.6000; version 1 stays the champion with 0.7000",
        "digits version 3: linear_top1 0.7000; version 1 stays the champion with 0.7000",
        "digits version 4: linear_top1 0.8000, the champion before version 1 with 0.7000",
    ]


def test_what_is_registered_already_gets_no_second_version(store: str, measured: Make) -> None:
    run = measured(0.7)
    assert track.register(store, run.run_id, "digits") == track.register(store, run.run_id, "digits")
    assert [each.version for each in track.client(store).search_model_versions("name = 'digits'")] in (["1"], [1])


def test_a_run_that_was_not_measured_is_registered_and_no_champion(store: str, measured: Make) -> None:
    assert "no linear_top1 on record" in track.register(store, measured(None).run_id, "digits")
    assert not track.client(store).get_registered_model("digits").aliases
    run = measured(0.1)
    track.register(store, run.run_id, "digits")
    assert champion(store) == run.run_id


def test_scores_on_other_data_are_not_compared(store: str, measured: Make) -> None:
    track.register(store, measured(0.7).run_id, "digits")
    with pytest.raises(UserError, match=r"measured on digits, run .* on cifar10; register it under another name"):
        track.register(store, measured(0.9, "cifar10").run_id, "digits")
    assert len(track.client(store).search_model_versions("name = 'digits'")) == 1


def test_a_run_without_an_encoder_registers_nothing(store: str, measured: Make) -> None:
    with pytest.raises(UserError, match="keeps no encoder"):
        track.register(store, measured(0.7, keeps=False).run_id, "digits")
    assert not track.client(store).search_registered_models()


def test_the_command_registers_and_exports_and_the_version_encodes(
    store: str, measured: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = measured(0.75)
    run.set_tags({"mlflow.source.git.commit": "0123abc"})
    words = f"export --run {run.run_id} --track.uri {store} --to torchvision --out {tmp_path}/out --register digits"
    assert main(words.split()) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {tmp_path}/out/model.safetensors",
        "digits version 1: linear_top1 0.7500, the champion",
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (run.run_id, "commit 0123abc", "| linear_top1 | 0.7500 |"):
        assert part in card
    from mlflow.pyfunc import load_model

    version = track.client(store).get_model_version_by_alias("digits", "champion")
    served = load_model(version.source)
    assert served.metadata.signature is not None
    assert served.metadata.signature.inputs.to_dict()[0]["tensor-spec"] == {"dtype": "uint8", "shape": (-1, -1, -1, 3)}
    features = served.predict(np.zeros((2, 40, 40, 3), np.uint8))
    assert features.shape == (2, 32)
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="schema"):
        served.predict(np.zeros((2, 40, 40, 3), np.float32))
