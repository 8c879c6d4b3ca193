"""Views made in batches of tensors against those that the CPU makes one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from contray import data, model
from contray.config import RunConfig
from contray.data import philox, views
from contray.data.draws import Draws, stream
from contray.data.recipe import BOX, FACTORS, FLIP, GRAY, ORDER, SOLARIZE, TAPS, Recipes
from contray.errors import ConfigError
from contray.methods._base import View
from contray.training.loop import Listener, train
from tests.benchmarks import gpu

PLAIN = View(size=24, count=2, crop=(0.08, 1.0))
FULL = replace(PLAIN, jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray=0.2, blur=0.5, solarize=0.2)


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Coloured textures of different sizes."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        height, width = rng.integers(20, 60, 2).tolist()
        coarse = cv2.resize(rng.integers(0, 256, (6, 5, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
        found.append(np.clip(coarse + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8))
    return found


class Pictures(data.Split):
    def __init__(self, images: list[np.ndarray], decoded: bool = False) -> None:
        super().__init__()
        self.images, self.decoded = images, decoded

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int, rng: np.random.Generator | None) -> np.ndarray:
        if i in self.broken:
            raise data.BrokenImage(f"picture {i}", self.broken[i])
        return self.images[i]


def made(split: data.Split, view: View, slots: range, step: int = 0, strength: float = 1.0, size: int = 64) -> dict[str, Any]:
    """The batch with its views, made on the CPU's tensors."""
    batches = data.DeviceBatches(split, {"view": view}, strength=strength, batch_size=size, seed=3)
    renderer = data.Renderer(batches, torch.device("cpu"))
    return next(renderer.ahead(iter([batches.load(step, slots)])))


def test_draws_for_many_samples_are_those_of_each() -> None:
    draws, name, ids = Draws(), stream("colour view 0"), np.array([0, 1, 77, 50_000, 2**40])
    for seed, epoch in ((0, 0), (-5, 199)):
        cursor, words = philox.Cursor(seed, epoch, ids, name, 16), philox.words(seed, epoch, ids, name, (5,))
        orders, short = philox.shuffled(words)
        for row, i in enumerate(ids.tolist()):
            draws.move(seed, epoch, i, name)
            assert [draws.random() for _ in range(16)] == cursor.values[row].tolist()
            order = [0, 1, 2, 3]
            draws.move(seed, epoch, i, name)
            draws.generator.shuffle(order)
            assert short[row] or order == orders[row].tolist()


def test_tables_hold_what_the_pipeline_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def watch(kind: Any, name: str, keep: Any) -> None:
        plain = getattr(kind, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            told.update(keep(*args, **kwargs))
            return plain(*args, **kwargs)

        monkeypatch.setattr(kind, name, call)

    watch(views, "_crop", lambda image, view, box, flipped: {"box": box, "flip": flipped})
    watch(A.ColorJitter, "apply", lambda self, image, **drawn: {"jitter": drawn})
    watch(A.ToGray, "apply", lambda self, image, **drawn: {"gray": True})
    watch(A.GaussianBlur, "apply", lambda self, image, **drawn: {"kernel": drawn["kernel"]})
    watch(A.Solarize, "apply", lambda self, image, **drawn: {"solarize": True})
    images, count, seen = pictures(4), 400, set()
    for strength in (1.0, 0.6):
        pipeline, recipes = views.Pipeline({"view": FULL}, strength), Recipes({"view": FULL}, strength)
        sizes = np.array([images[i % 4].shape[:2] for i in range(count)])
        table = recipes((3, 5), np.arange(count), {"view0": sizes, "view1": sizes})["view1"]
        for i, row in enumerate(table):
            told.clear()
            pipeline(lambda column, rng, i=i: images[i % 4], (3, 5, i))  # the second view overwrites what the first told
            height, width = sizes[i].tolist()
            assert row[BOX].tolist() == [round(x * side) for x, side in zip(told["box"], (height, width) * 2, strict=True)]
            assert row[FLIP] == told["flip"]
            told.clear()
            pipeline._stages, stages = pipeline._stages[1:], pipeline._stages
            pipeline(lambda column, rng, i=i: images[i % 4], (3, 5, i))
            pipeline._stages = stages
            assert row[GRAY] == told.get("gray", False)
            assert row[SOLARIZE] == told.get("solarize", False)
            jitter = told.get("jitter")
            assert row[ORDER].tolist() == (jitter["order"] if jitter else [4] * 4)
            if jitter:
                factors = np.array([jitter[name] for name in ("brightness", "contrast", "saturation")], np.float32)
                assert row[FACTORS][:3].tolist() == factors.tolist()
                assert row[FACTORS][3] == np.floor(180 * jitter["hue"]) % 180
            kernel = row[TAPS:][row[TAPS:] > 0]
            np.testing.assert_allclose(kernel, told.get("kernel", []), rtol=1e-6)
            seen |= told.keys()
    assert seen == {"box", "flip", "jitter", "gray", "kernel", "solarize"}


@pytest.mark.parametrize(
    "view",
    [
        *[replace(PLAIN, interpolation=how) for how in ("linear", "cubic", "area")],
        replace(PLAIN, size=12, interpolation="area"),
        replace(PLAIN, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2),
        replace(PLAIN, jitter=(0.0, 0.4, 0.0, 0.0), jitter_p=1.0, blur=0.5),
        replace(FULL, interpolation="cubic"),
        replace(FULL, jitter_as="tensorflow"),
        replace(FULL, jitter_as="added"),
    ],
    ids=["linear", "cubic", "area", "smaller", "jitter", "blur", "full", "tensorflow", "added"],
)
def test_pixels_are_those_of_the_cpu(view: View) -> None:
    split = Pictures(pictures(64))
    ours = made(split, view, range(64))
    theirs = data.GlobalBatches(split, {"view": view}, strength=1.0, batch_size=64, seed=3).load(0, range(64))
    assert torch.equal(ours["index"], theirs["index"])
    for name, pixels in theirs["views"].items():
        away = (ours["views"][name].int() - pixels.int()).abs()
        assert ours["views"][name].dtype == torch.uint8
        assert (away <= 2).float().mean() > 0.99
        assert (away == 0).float().mean() > 0.9


def test_a_row_depends_on_no_other_and_images_travel_or_lie_there() -> None:
    images = pictures(80)
    whole = made(Pictures(images), FULL, range(64))["views"]
    lying = Pictures(images, decoded=True)
    lying.broken[70] = "not decodable"  # nothing lies there
    for split in (Pictures(images), lying):
        parts = [made(split, FULL, slots)["views"] for slots in (range(5), range(5, 48), range(48, 64))]
        for name, pixels in whole.items():
            assert torch.equal(torch.cat([part[name] for part in parts]), pixels)


def test_broken_images_are_replaced_as_on_the_cpu() -> None:
    images = pictures(80)
    broken = data.GlobalBatches(Pictures(images), {"view": PLAIN}, strength=1.0, batch_size=64, seed=3).ids(0)[[2, 9]].tolist()
    for decoded in (True, False):
        split = Pictures(images, decoded)
        split.broken = {i: "not decodable" for i in broken}
        ours = made(split, PLAIN, range(64))
        theirs = data.GlobalBatches(split, {"view": PLAIN}, strength=1.0, batch_size=64, seed=3).load(0, range(64))
        assert torch.equal(ours["index"], theirs["index"])
        assert ours["broken"] == theirs["broken"] == split.broken


def test_what_ends_the_stream_comes_after_the_batch_before_it() -> None:
    batches = data.DeviceBatches(Pictures(pictures(8)), {"view": PLAIN}, strength=1.0, batch_size=4, seed=0)

    def stream() -> Any:
        yield batches.load(0, range(4))
        raise ConfigError("data.source", "gone")

    seen = data.Renderer(batches, torch.device("cpu")).ahead(stream())
    assert set(next(seen)["views"]) == {"view0", "view1"}
    with pytest.raises(ConfigError, match="gone"):
        next(seen)


class Losses(Listener):
    def __init__(self) -> None:
        self.loss: list[float] = []

    def log(self, step: int, values: Any) -> None:
        self.loss.append(values["loss"])


def test_the_loop_trains_on_them() -> None:
    """Pictures that are drawn for each view go with the batch."""
    keys = {
        "train.steps": 2, "train.batch_size": 16, "train.log_every": 1, "train.precision": "fp64", "train.device": "cpu", "data.workers": 0,
        "data.renderings": 1, "backbone.width": 8, "eval.every_epochs": 0, "augment.strength": 0.0,
    }  # fmt: skip
    found = []
    for where in ("cpu", "device"):
        config = RunConfig.make("simclr", keys | {"data.augment_on": where}, preset="digits")
        listener = Losses()
        train(config, data.open_source(config.data), listener=listener)
        found.append(listener.loss)
    assert found[0] == pytest.approx(found[1], abs=1e-3)


@pytest.mark.parametrize(
    ("keys", "rest"),
    [
        ({}, ""),
        ({"views.view.cutout": 0.5}, "views.view.cutout 0.5"),
        ({"views.view.randaugment": "1 5"}, "views.view.randaugment 1 5"),
    ],
)
def test_who_makes_the_views_is_settled(keys: dict[str, Any], rest: str) -> None:
    config = RunConfig.make("simclr", keys, preset="digits")
    assert model.settled(config, "cpu").data.augment_on == "cpu"
    assert model.settled(config, "cuda").data.augment_on == ("cpu" if rest else "device")
    assert model.settled(config, "cuda").digest() == config.digest()
    asked = config.replace({"data.augment_on": "device"})
    if rest:
        with pytest.raises(ConfigError, match=f"augment_on: got device, where {rest} cannot be made"):
            model.settled(asked, "cpu")
    else:
        assert model.settled(asked, "cpu").data.augment_on == "device"


@pytest.mark.parametrize("mode", gpu.MODES)
def test_every_mode_of_the_benchmark_of_a_gpu_is_a_config(mode: str) -> None:
    config = gpu.config_of(mode, "", {"train.steps": 2})
    assert config.backbone.name in {"vit": "vit_small", "mae": "vit_large"}.get(mode, config.backbone.name)
    assert model.settled(config, "cuda").data.augment_on == "device"


def test_the_benchmark_of_a_gpu_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a CPU, with a tiny network on the digits."""
    gpu.main(["--smoke", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["steps"], found["config"]["data.augment_on"]) == (4, "device")
    assert 0 < found["knn_top1"] < 1
    assert len(found["loss"]) == 3
    assert "knn_top1" in capsys.readouterr().out
