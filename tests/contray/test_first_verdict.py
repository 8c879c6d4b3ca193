"""A folder of one's own, whatever it looks like, trains and ends in a verdict, in the terminal, in JSON and in MLflow."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from contray import RunConfig, track
from contray.cli import documents, results
from contray.training.launch import Result, launch
from tests.stores import fresh

TINY = {
    "scale.workers": (0, 0), "data.workers": 0, "train.batch_size": 8, "train.steps": 4, "train.precision": "fp32", "train.log_every": 2,
    "views.view.size": 16, "backbone.name": "resnet_small", "backbone.width": 4, "method.projector_hidden": 8, "method.projector_dim": 4,
    "eval.every_epochs": 0.25, "eval.linear.epochs": 2, "track.model": False,
}  # fmt: skip


def folder(root: Path, *counts: int) -> Path:
    """Classes of so many images each, of a colour of its own under noise; one count alone: no classes."""
    rng = np.random.default_rng(0)
    for number, count in enumerate(counts):
        place = root / f"class{number}" if len(counts) > 1 else root
        place.mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 90, (20, 24, 3))
            image[..., number % 3] += 120
            cv2.imwrite(str(place / f"{i}.png"), image.astype(np.uint8))
    return root


def trained(source: Path, place: Path) -> tuple[RunConfig, Result]:
    keys = {"data.source": str(source), "scale.storage": str(place / "runs"), "track.uri": fresh(place)}
    config = RunConfig.make("simclr", {**TINY, **keys}, preset="digits")
    return config, launch(config, quiet=True)


def test_labels_without_a_test_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, result = trained(folder(tmp_path / "photos", 24, 12, 1), tmp_path)
    results.show_result(config, result)
    said = capsys.readouterr().out
    count = int(result.details["about"]["test_images"])
    assert 3 <= count <= 6
    assert f"top-1 on a held-out tenth of photos/ ({count} images)" in said
    assert result.verdict
    assert result.verdict in said
    assert f"On a held-out tenth of photos/ ({count} images) training changed" in result.verdict
    assert "1 of 3 classes have fewer than 5 labelled training images, 1 of them a single one" in result.verdict
    assert documents.of_run(result)["verdict"] == result.verdict
    run = track.attach(config.track.uri, result.run_id)
    assert run.results()[1]["contray.verdict"] == result.verdict
    assert "neighbours.png" in run.kept()


@pytest.mark.parametrize("counts", [(20,), (1,) * 12], ids=["no classes", "a single image of each class"])
def test_no_labels_to_measure_by(tmp_path: Path, capsys: pytest.CaptureFixture[str], counts: tuple[int, ...]) -> None:
    config, result = trained(folder(tmp_path / "photos", *counts), tmp_path)
    results.show_result(config, result)
    said = capsys.readouterr().out
    assert "geometry of the features" in said
    assert "There are no labels, so this tells how the features lie, not how right they are." in result.verdict
    assert result.verdict in said
    run = track.attach(config.track.uri, result.run_id)
    assert run.results()[1]["contray.verdict"] == result.verdict
    assert ("neighbours.png" in run.kept()) == (len(counts) == 1)  # of single images of classes none is held out
