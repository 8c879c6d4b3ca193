"""Geometry, layer norms and the collapse alarm: exact, without labels, silent in health and heard in collapse."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from contray import data, model
from contray.config import RunConfig
from contray.config.registry import load_method, method_names
from contray.evaluation import Subject, geometry
from contray.evaluation.common.diagnosis import Diagnosis, LayerNorms, describe, drawn_views, layer_of
from contray.evaluation.common.tables import GEOMETRY
from contray.evaluation.common.watch import Alarm, Collapsed, Watch
from contray.storage.checkpoint import latest
from contray.storage.folder import Storage
from contray.training.loop import Listener, train

CPU = torch.device("cpu")
TINY = {
    "train.batch_size": 64, "train.steps": 20, "train.precision": "fp32", "train.log_every": 1, "train.checkpoint_seconds": 1e6, "backbone.width": 4,
    "data.renderings": 1, "data.size": 16, "data.workers": 0, "data.label_column": "", "eval.every_epochs": 5 / 22, "eval.online_limit": 128,
}  # fmt: skip
SIDES = {"simclr": ("view",), "simsiam": ("view",), "byol": ("first", "second")}
HARD = {"method.output_norm": "bn", "optim.name": "sgd", "optim.lr": 0.8, "optim.weight_decay": 0.05, "optim.warmup_epochs": 0}
NO_STOP = """
from contray.methods import simsiam
from contray.methods._parts import negative_cosine
from contray.methods.simsiam import PAPER, PRESETS, RECIPE, VIEWS, Config


class NoStop(simsiam.SimSiam):
    def loss(self, reps, batch, clock):
        z0, z1 = (self.projector(h) for h in reps.values())
        return {"loss": (negative_cosine(self.predictor(z0), z1, batch.size) + negative_cosine(self.predictor(z1), z0, batch.size)) / 2}
"""


def tiny(method: str, settings: Mapping[str, Any] | None = None, name: str = "") -> RunConfig:
    sizes = {f"views.{view}.size": 16 for view in SIDES[name or method]}
    return RunConfig.make(method, {**TINY, **sizes, **(settings or {})}, preset="digits")


class Heard(Listener):
    def __init__(self) -> None:
        self.values: dict[int, dict[str, float]] = {}
        self.alarms: list[tuple[int, str]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.values.setdefault(step, {}).update({name: value for name, value in values.items() if name != "images_per_second"})

    def collapsed(self, step: int, words: str) -> None:
        self.alarms.append((step, words))


def run(config: RunConfig, storage: Storage | None = None, heard: Heard | None = None) -> Heard:
    heard = heard or Heard()
    train(config, data.open_source(config.data), storage, heard)
    return heard


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    found = Storage(str(tmp_path / "run"))
    found.create()
    return found


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize("name", method_names())
def test_every_method_evaluates_what_it_draws(name: str) -> None:
    """So that positives can be drawn for each; of the digits' preset, the views of which are all small."""
    file = load_method(name)
    for preset in file.presets.values():
        views = preset.views or file.views
        inputs = file.method.eval_views(views)
        drawn = drawn_views(inputs, views)
        assert drawn.keys() == inputs.keys()
        assert all((view.size, view.count) == (inputs[key].size, 1) for key, view in drawn.items())


@pytest.mark.parametrize(
    "name", [name for name in method_names() if name not in ("cmc", "cpc_sequence")]
)  # with features of another width
def test_every_method_has_embeddings(name: str) -> None:
    config = RunConfig.make(name, {"train.precision": "fp32"}, preset="digits")
    method = model.build(config, 256).eval()
    features = torch.randn(5, method.out_dim)
    embedded = method.embedding(features)
    assert embedded.shape[0] == 5
    assert torch.equal(embedded, features) == (not hasattr(method, "projector") and name not in ("instdisc", "invaspread"))


def test_geometry_needs_no_labels_and_depends_on_the_seed_alone() -> None:
    config = tiny("simclr")
    source = data.open_source(config.data)
    assert source.train.labels is None
    method = model.build(config, len(source.train)).train()
    torch.manual_seed(1)
    first = Diagnosis(config, source, CPU).measure(method)
    assert method.training
    torch.manual_seed(2)
    diagnosis = Diagnosis(config, source, CPU)
    assert list(first) == list(GEOMETRY)
    assert diagnosis.measure(method) == diagnosis.measure(method) == first
    other = Diagnosis(config.replace({"seed": 1}), source, CPU).measure(method)
    assert other["rankme"] == first["rankme"], "the images as evaluation shows them"
    assert other["alignment"] != first["alignment"], "drawn by the seed"
    features, pairs = diagnosis.features(method)
    assert pairs is not None
    assert features.shape == pairs[0].shape == pairs[1].shape == (128, method.out_dim)
    one, other_view = (torch.nn.functional.normalize(method.eval().projector(each).detach().double(), dim=1) for each in pairs)
    negatives = [float(one[i] @ other_view[j]) for i in range(128) for j in range(128) if i != j]
    assert first["effective_temperature"] == pytest.approx(
        config.flat()["method.temperature"] / statistics.stdev(negatives), rel=1e-4
    )
    assert not torch.equal(*pairs)


def test_the_metrics_are_the_measures_of_the_papers() -> None:
    x, y = torch.eye(8), torch.eye(8)
    found = describe(x, (x, y))
    assert found["rankme"] == pytest.approx(8, abs=1e-3)
    assert found["rankme_share"] == pytest.approx(1, abs=1e-3)
    assert found["feature_std"] == pytest.approx(math.sqrt(8) * math.sqrt(1 / 8 - 1 / 64))
    assert found["uniformity"] == pytest.approx(-4)
    assert (found["alignment"], found["positive_similarity"], found["negative_similarity"]) == (0, 1, 0)
    moved = describe(x, (x, y.roll(1, 0)))
    assert (moved["alignment"], moved["positive_similarity"]) == pytest.approx((2, 0))
    assert moved["negative_similarity"] == pytest.approx(1 / 7), "one of seven others is the same"


def test_features_that_are_no_numbers_are_told_as_such() -> None:
    found = describe(torch.full((4, 3), math.nan), None)
    assert all(math.isnan(value) for value in found.values())
    assert not Alarm().hear(
        {**found, "embedding_std": math.nan, "embedding_rankme": math.nan, "embedding_rankme_share": math.nan}
    )


def test_the_picture_and_the_untrained_encoder(tmp_path: Path) -> None:
    config = tiny("simclr")
    source = data.open_source(config.data)
    method = model.build(config, len(source.train))
    found = geometry.evaluate(Subject(config, method, CPU, out=tmp_path, given=source), geometry.Config())
    assert found.pictures == (tmp_path / "similarities.png",)
    assert (tmp_path / "similarities.png").stat().st_size > 10_000
    assert all(found[f"random_{name}"] == found[name] for name in GEOMETRY), "it is untrained"


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("backbone.conv1.weight", "conv1"),
        ("backbone.layer1.0.conv2.weight", "layer1"),
        ("backbone.conv_proj.weight", "conv_proj"),
        ("backbone.encoder.pos_embedding", "encoder"),
        ("backbone.encoder.layers.encoder_layer_3.mlp.0.weight", "encoder.layers.encoder_layer_3"),
        ("backbone.class_token", "backbone"),
        ("projector.0.weight", "projector"),
        ("mask_token", "mask_token"),
    ],
)
def test_layers_are_named_by_modules(parameter: str, layer: str) -> None:
    assert layer_of(parameter) == layer


def test_layer_norms_make_up_the_whole_norm_before_it_is_clipped() -> None:
    settings = {"train.steps": 3, "train.log_every": 2, "optim.clip": 0.01, "eval.every_epochs": 0, "train.log_layers": True}
    heard = run(tiny("simclr", settings))
    for step in (1, 2, 3):
        layers = {name: value for name, value in heard.values[step].items() if name.startswith("grad_norm/")}
        assert {"grad_norm/conv1", "grad_norm/layer1", "grad_norm/layer4", "grad_norm/projector"} <= layers.keys()
        assert math.hypot(*layers.values()) == pytest.approx(heard.values[step]["grad_norm"], rel=1e-5)
    assert not any("/" in name for name in run(tiny("simclr", {**settings, "train.log_layers": False})).values[1])


def test_a_layer_without_gradients_has_none() -> None:
    method = model.build(tiny("simclr"), 256)
    norms = LayerNorms(method)
    method.backbone.conv1.weight.grad = torch.ones_like(method.backbone.conv1.weight)  # pyright: ignore
    found = norms.named(norms())
    assert found["grad_norm/conv1"] == pytest.approx(math.sqrt(method.backbone.conv1.weight.numel()))  # pyright: ignore
    assert found["grad_norm/layer1"] == 0


# ---------------------------------------------------------------- the alarm

HEALTHY = {"embedding_std": 0.9, "embedding_rankme": 60.0, "embedding_rankme_share": 0.5}
ONE_POINT = {"embedding_std": 0.004, "embedding_rankme": 1.0, "embedding_rankme_share": 1 / 128}
FEW_DIMENSIONS = {"embedding_std": 0.7, "embedding_rankme": 8.0, "embedding_rankme_share": 8 / 128}


@pytest.mark.parametrize(("values", "kind"), [(ONE_POINT, "collapse: all images"), (FEW_DIMENSIONS, "dimensional collapse")])
def test_the_alarm_is_raised_once_at_the_second_in_a_row(values: dict[str, float], kind: str) -> None:
    alarm = Alarm()
    told = [alarm.hear(each) for each in (HEALTHY, values, HEALTHY, values, values, values)]
    assert [bool(words) for words in told] == [False, False, False, False, True, False]
    assert told[4].startswith(kind)
    assert f"{values['embedding_std']:.3f}" in told[4]
    assert f"{values['embedding_rankme']:.1f} of 128 (it was 60.0)" in told[4]
    assert "stop-gradient" in told[4]
    assert "\n" not in told[4]


@pytest.mark.parametrize("values", [ONE_POINT, FEW_DIMENSIONS])
def test_what_was_so_from_the_start_is_no_collapse(values: dict[str, float]) -> None:
    """Features of networks that were just drawn lie close to each other, and those of a ViT stay so for long."""
    alarm = Alarm()
    alarm.note(values)
    assert not any(alarm.hear(values) for _ in range(5))


def test_of_a_method_without_projector_the_features_count_and_only_if_all_are_one() -> None:
    names = {"embedding_std": "feature_std", "embedding_rankme": "rankme", "embedding_rankme_share": "rankme_share"}
    for values, heard in ((ONE_POINT, True), (FEW_DIMENSIONS, False)):
        alarm = Alarm()
        told = [alarm.hear({names[key]: value for key, value in each.items()}) for each in (HEALTHY, values, values)]
        assert bool(told[2]) == heard


def test_a_narrow_cone_is_no_collapse() -> None:
    alarm = Alarm()
    assert not any(alarm.hear({**HEALTHY, "embedding_std": std}) for std in (0.9, 0.05, 0.05, 0.05))


@pytest.mark.parametrize("name", ["simclr", "simsiam", "byol"])
def test_healthy_runs_raise_no_alarm(name: str) -> None:
    heard = run(tiny(name))
    assert heard.alarms == []
    assert [step for step, values in heard.values.items() if "rankme" in values] == [1, 5, 10, 15]
    last = heard.values[15]
    assert last["embedding_rankme_share"] > 0.2
    assert last["embedding_std"] > 0.3


def test_a_method_without_its_stop_gradient_raises_the_alarm_and_ends_where_asked(tmp_path: Path, storage: Storage) -> None:
    file = tmp_path / "no_stop.py"
    file.write_text(NO_STOP)
    config = tiny(str(file), HARD, "simsiam")
    heard = run(config)
    ((step, words),) = heard.alarms
    assert step < 20
    assert "collapse" in words

    ending = config.replace({"train.on_collapse": "stop"})
    stopped = Heard()
    with pytest.raises(Collapsed, match=rf"^step {step + 1}: .*collapse.*its checkpoint is kept") as caught:
        run(ending, storage, stopped)
    assert caught.value.words == words
    assert stopped.alarms == [(step, words)]
    assert {name for name in storage.names() if name.startswith("step-")} == {f"step-{step + 1:09d}.pt"}

    again = Heard()
    with pytest.raises(Collapsed, match=rf"^step {step + 2}: "):
        run(ending, storage, again)
    assert again.alarms == [], "it is said once in a run"
    went_on = run(config, storage)
    assert max(went_on.values) == 20, "with warn the run goes on from there"
    assert went_on.alarms == []


def test_a_killed_run_measures_as_if_nothing_had_been(storage: Storage) -> None:
    class Killed(Exception):
        pass

    class Dies(Heard):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            super().log(step, values)
            if step == 7:
                raise Killed

    config = tiny("simsiam", {"train.checkpoint_steps": 3, "train.steps": 12})
    whole = run(config)
    with pytest.raises(Killed):
        run(config, storage, Dies())
    state = latest(storage)
    assert state is not None
    assert state["watch"]["rank"] == max(whole.values[step]["embedding_rankme"] for step in (1, 5))
    rest = run(config, storage)
    assert min(rest.values) == 7
    assert {step: whole.values[step] for step in rest.values} == rest.values
    assert "rankme" in rest.values[10]
    known = {"std": 5.0, "rank": 7.0, "in_a_row": 1, "words": ""}
    assert Watch(config, data.open_source(config.data), CPU, {"watch": known}).state == known
