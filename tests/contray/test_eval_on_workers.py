"""`contray eval` on workers: what all of them encode gives what one process gives, and what trains on one of them says so."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import contray
from contray import RunConfig, data, model
from contray.api.load import load
from contray.errors import ConfigError
from contray.evaluation.common.crew import Asked as Whose
from contray.evaluation.common.crew import Crew
from contray.training.evaluating import EvaluationJob, measure
from contray.training.worker import Asked
from tests.ranks import run_ranks

SMALL = {
    "backbone.name": "vit_mini", "method.outputs": 16, "method.hidden": 8, "method.bottleneck": 8, "data.workers": 0, "eval.batch_size": 5,
    "eval.holdout": 0.25, "train.device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 images of two classes, of which 8 test."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(24):
        file = folder / ("test" if i < 8 else "train") / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file)
    return str(folder)


def measured(rank: int, world: int, photos: str, keys: dict[str, Any], out: str) -> tuple[dict[str, Any], str]:
    config = RunConfig.make("dino", SMALL | {"data.source": photos} | keys, preset="digits")
    job = EvaluationJob.of(config, model.build(config, 8), {}, load, Path(out), threads=1)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        return measure(job, lambda message: Asked()), said.getvalue()


def test_two_workers_measure_what_one_process_does(photos: str) -> None:
    keys = {"eval.final": ("knn", "last_n", "geometry"), "eval.last_n.epochs": 2}
    (two, said), (other, _) = run_ranks(measured, 2, photos, keys, "some/alike.png")
    one, _ = measured(0, 1, photos, keys, "some/alike.png")
    assert two == one, "also the pixels of the picture"
    assert {"knn_top1", "random_knn_top1", "pixels_knn_top1", "linear_last4_top1", "rankme", "test_images"} <= two[
        "metrics"
    ].keys()
    assert list(two["pictures"]) == ["alike.png"]
    assert (other, said) == ({}, "")


def test_a_network_that_one_worker_trained_is_measured_there(photos: str) -> None:
    """The other workers have the encoder and the untrained one; of the supervised network they know nothing, and may not take theirs for it."""
    keys = {
        "data.source": "digits", "data.size": 16, "data.renderings": 1, "eval.final": ("transfer",), "eval.transfer.column": "background",
        "train.steps": 4, "eval.transfer.lrs": (0.1,), "eval.linear.epochs": 2, "views.large_a.size": 16, "views.large_b.size": 16,
    }  # fmt: skip
    (two, _), _ = run_ranks(measured, 2, photos, keys, "")
    one, _ = measured(0, 1, photos, keys, "")
    assert two["metrics"] == one["metrics"]
    assert two["metrics"]["supervised_transfer_top1"] != two["metrics"]["transfer_top1"]


def as_another(rank: int, world: int, photos: str) -> str:
    """What comes of asking all ranks for an encoder that one of them has."""
    config = RunConfig.make("dino", SMALL | {"data.source": photos}, preset="digits")
    source, method = data.open_source(config.data), model.build(config, 8).eval()
    crew = Crew(config, source, torch.device("cpu"), shared=True)
    if rank:
        crew.follow(method)
        return ""
    with crew.leading():
        crew.encode(Whose(np.arange(4)), {"": method})
        crew.encode(Whose(np.arange(4)), {"random_": crew.untrained, "pixels_": None})
        with pytest.raises(ValueError, match="other ranks have no copy of what is to encode here as ''"):
            crew.encode(Whose(np.arange(4)), {"": model.build(config, 8)})
        with pytest.raises(ValueError, match="'mine'"):
            crew.encode(Whose(np.arange(4)), {"mine": method})
    return "refused"


def test_an_encoder_that_other_ranks_have_not_is_refused(photos: str) -> None:
    assert run_ranks(as_another, 2, photos) == ["refused", ""]


def test_what_trains_says_that_one_worker_does_and_a_refusal_comes_back(photos: str) -> None:
    few = {"labels": "2-per-class", "holdout": 0.5, "epochs": 1, "lrs": (0.1,)}
    keys = {"eval.final": ("finetune", "last_n"), "eval.last_n.blocks": 99, **{f"eval.finetune.{key}": few[key] for key in few}}
    (found, said), _ = run_ranks(measured, 2, photos, keys, "")
    assert said == "contray: eval finetune trains on one worker; the other 1 compute frozen features alone\n"
    assert found["refused"].startswith("eval.last_n.blocks: got 99")


def test_keys_of_workers_without_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^scale\.address: is of workers, and without scale\.workers"):
        contray.evaluate("knn", "run", overrides={"scale.address": "auto"})
