"""`eval attention` and `eval transfer`: what the class token looks at, what features tell of other labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from contray import RunConfig, data, model
from contray.errors import ConfigError, UserError
from contray.evaluation.common.crew import Crew
from contray.pictures.attention import draw
from contray.pictures.subject import Subject

from .evaluations import CPU, evaluated

SMALL = {
    "data.renderings": 1,
    "data.workers": 0,
    "backbone.width": 16,
    "train.device": "cpu",
    "train.precision": "fp32",
    "train.steps": 2,
}


def test_attention_is_the_overlap_that_the_picture_shows(tmp_path: Path) -> None:
    config = RunConfig.make("mae", SMALL | {"eval.attention.images": 40, "eval.batch_size": 16}, preset="digits")
    source = data.open_source(config.data)
    method = model.build(config, len(source.train)).eval()
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.mul_(2)
    found = evaluated("attention", config, source, method)
    shown = draw(Subject(config, source, method, CPU, 40), tmp_path / "a.png")
    assert found == pytest.approx(shown)
    assert found["attention_jaccard"] != pytest.approx(found["random_attention_jaccard"])


def test_transfer_probes_the_other_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        "eval.transfer.lrs": 1e-3,
        "eval.linear.lrs": 3.0,
        "eval.linear.decays": 0.0,
        "eval.linear.epochs": 3,
        "train.batch_size": 16,
    }
    config = RunConfig.make("simclr", SMALL | keys, preset="digits")
    source = data.open_source(config.data)
    method = model.build(config, len(source.train)).eval()
    with pytest.raises(ConfigError, match=r"^eval\.transfer\.column: must name"):
        evaluated("transfer", config, source, method)
    other = data.open_source(dataclasses.replace(config.data, label_column="position"))
    asked = []

    def told(crew, what, methods):
        split = other.test if what.tested else other.train
        assert split is not None
        asked.append(next(iter(methods.values())))
        ids = torch.as_tensor(what.ids)
        return [F.one_hot(torch.as_tensor(split.labels)[ids]).float()], ids

    monkeypatch.setattr(Crew, "encode", told)
    found = evaluated("transfer", config.replace({"eval.transfer.column": "position"}), source, method)
    assert dict(found) == {f"{prefix}transfer_top1": 1.0 for prefix in ("", "supervised_", "random_")}
    trained, supervised, untrained = asked[::3]
    assert trained is method
    moved = [
        not torch.equal(a, b) for a, b in zip(supervised.backbone.parameters(), untrained.backbone.parameters(), strict=True)
    ]
    assert any(moved), "the supervised network was trained"


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def colours(folder: Path, hidden: bool = False) -> None:
    """Plain images of a colour that `colour` names, and a label that says nothing. Hidden: beside test images, of which no colour is known."""
    drawn, names = np.random.default_rng(0), list(COLOURS)
    for part in ("train", "test") if hidden else ("train",):
        which = drawn.choice(names, 80)
        images = [cv2.imencode(".png", np.full((16, 16, 3), COLOURS[name], np.uint8))[1].tobytes() for name in which]
        told = pa.array([None] * 80, pa.string()) if part == "test" else pa.array(which)
        rows = {"image": pa.array(images, pa.binary()), "label": pa.array(drawn.choice(["a", "b"], 80)), "colour": told}
        pq.write_table(pa.table(rows), folder / f"{part}.parquet")


def transferred(folder: Path) -> dict[str, float]:
    keys = SMALL | {
        "data.source": str(folder),
        "eval.transfer.column": "colour",
        "eval.transfer.lrs": 0.01,
        "train.batch_size": 16,
    }
    config = RunConfig.make("simclr", keys, preset="digits")
    source = data.open_source(config.data)
    return evaluated("transfer", config, source, model.build(config, len(source.train)).eval())


def test_other_labels_are_those_of_the_same_images_where_none_test(tmp_path: Path) -> None:
    """The tenth that tests is drawn by the labels: that of other labels is another."""
    colours(tmp_path)
    assert transferred(tmp_path)["transfer_top1"] == 1.0


def test_test_images_without_other_labels_are_refused(tmp_path: Path) -> None:
    colours(tmp_path, hidden=True)
    with pytest.raises(UserError, match="the test images have no labels 'colour'"):
        transferred(tmp_path)
