"""The plan of preset auto: valid whatever data and machine there are, told in ten lines, kept with its run; and the guard of every run."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from contray import data, model, planning, processors
from contray.api.train import minutes
from contray.cli.main import main
from contray.config import RunConfig
from contray.config.registry import builtin, load_method
from contray.errors import ConfigError, UserError
from contray.planning import rules, words
from contray.planning.cost import Cost, loaders_for
from contray.planning.estimates import estimate, guard, refuse, small
from contray.planning.facts import Images, Machine, look, machine
from contray.planning.trial import Trial, measure
from contray.storage.checkpoint import dump
from contray.storage.folder import Storage
from contray.studies.rounds import at_once_of
from contray.training import launch as launching

METHODS = [
    name for name in builtin("method") if name not in ("clip", "cpc_sequence", "distill")
]  # of texts, of sounds, of a teacher
CPU = Machine("cpu", 2, 24e9)
GPU = Machine("cuda", 16, 128e9, 1, 80e9)


def cost_of(config: RunConfig) -> Trial:
    """As if measured: by the pixels that are drawn and the network's width."""
    pixels = sum(view.size**2 * view.count for view in config.views.values())
    speed = 2e-7 if config.train.device == "cpu" else 1e-9
    return Trial(speed * pixels * (config.backbone.width / 16) ** 1.7, 2e-3, 2e-4, 1e-4, 0.0, 1_000_000, 10_000_000, 64)


def auto(method: str, **keys: object) -> RunConfig:
    given = {key.replace("__", "."): value for key, value in keys.items()}
    return RunConfig.make(method, {"data.source": "photos/", "train.device": "cpu", **given})


def fitted(config: RunConfig, images: Images, here: Machine = CPU) -> RunConfig:
    found = rules.fit(config, images, here, cost_of).config
    return found.replace({"train.planned": found.train.planned, "train.planned_for": "a test"})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 small photos of two classes."""
    rng = np.random.default_rng(0)
    for i in range(24):
        place = tmp_path / "photos" / f"kind{i % 2}" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), cv2.GaussianBlur(rng.integers(0, 256, (30, 40, 3), np.uint8), (0, 0), 1 + i % 2))
    return tmp_path / "photos"


# ---------------------------------------------------------------- rules


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    some.sampled_from(METHODS), some.one_of(some.integers(4, 200), some.integers(200, 3_000_000)), some.integers(4, 4000),
    some.sampled_from([dataclasses.replace(CPU, cores=1, memory=2e9), CPU, GPU]), some.floats(0.5, 3000),
)  # fmt: skip
def test_a_plan_is_valid_whatever_there_is(method: str, count: int, side: int, here: Machine, budget: float) -> None:
    config = auto(method, train__budget=budget)
    images = Images(count, side=side, longest=2 * side, decode=1e-3, cached=count < 10_000)
    found = fitted(config, images, here)
    model.check(found, count)
    assert found.run_name == config.run_name, "the same command would not find its run"
    assert not found.unplanned
    batch = found.train.batch_size
    assert batch <= max(2, count // 3)
    assert found.train.steps <= max(rules.MOST_EPOCHS * max(count // batch, 1), rules.SHORTEST)
    assert found.eval.every_epochs > 0
    assert found.optim.warmup_epochs * (count // batch) <= 0.1 * found.train.steps + 1
    if hasattr(found.method, "momentum") and load_method(method).paper.ema != "no" and found.train.steps >= 40:
        assert 1 / (1 - found.method.momentum) <= max(found.train.steps / 20, 2) + 1e-6
    assert RunConfig.from_yaml(found.to_yaml()) == found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [24, 50_000])
def test_every_method_of_images_has_a_plan(method: str, count: int) -> None:
    for here in (CPU, GPU):
        model.check(fitted(auto(method), Images(count, side=3000, longest=4000), here), count)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_images_can_be_measured(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the few rows of a trial, and without what a run's first step alone does."""
    monkeypatch.setattr("contray.methods._tokenizers.PatchTokenizer.fit", lambda *_: pytest.fail("is no part of every step"))
    few = Images(24, side=120, longest=160)
    assert measure(fitted(auto(method), few, CPU), few).seconds > 0


@pytest.mark.parametrize("patch", [14])
@pytest.mark.parametrize("method", ["dino", "ijepa"])
@pytest.mark.parametrize("here", [CPU, GPU])
def test_views_are_whole_patches_of_a_given_transformer(method: str, patch: int, here: Machine) -> None:
    """As where a run begins with public weights: DINOv2's patches have 14 px."""
    found = fitted(auto(method, backbone__name="vit_small", backbone__patch=patch), Images(3000, side=260, longest=300), here)
    sizes = [view.size for view in found.views.values()]
    assert all(size % patch == 0 for size in sizes), sizes
    assert max(sizes) >= 4 * patch
    model.check(found, 3000)


def test_what_is_given_stays_and_the_rest_is_fitted() -> None:
    config = auto("moco", optim__lr=0.5, views__query__size=48, train__batch_size=20, backbone__name="resnet18")
    found = fitted(config, Images(300, side=100, longest=100))
    assert (found.optim.lr, found.views["query"].size, found.train.batch_size, found.backbone.name) == (0.5, 48, 20, "resnet18")
    assert found.backbone.width == 64, "a ResNet-18 of another width is none"
    assert 20 <= found.method.queue_size <= 280
    assert not {"optim.lr", "views", "views.query.size", "train.batch_size"} & set(found.train.planned)
    assert found.run_name == config.run_name != auto("moco").run_name


def test_more_time_buys_more_steps_and_a_longer_memory() -> None:
    images = Images(20_000, side=32, longest=32)
    short, long = (fitted(auto("byol", train__budget=budget), images) for budget in (2, 20))
    assert long.train.steps > 3 * short.train.steps
    assert long.method.momentum > short.method.momentum
    assert fitted(auto("byol", train__budget=0.01), images).train.steps >= 10


def test_images_are_drawn_no_larger_than_they_are_or_than_the_time_allows() -> None:
    def drawn(side: int, budget: float) -> int:
        return fitted(auto("simclr", train__budget=budget), Images(2000, side=side, longest=side)).views["view"].size

    assert [drawn(8, 30), drawn(32, 30), drawn(480, 30), drawn(480, 0.5)] == [32, 32, 64, 32]
    crops = rules.scaled(load_method("swav").views, 64)
    assert (crops["large"].size, crops["small"].size) == (64, 28), "all crops by one factor, in whole pixels"
    patches = rules.scaled(load_method("cpc").presets["cifar"].views or {}, 64)["patches"]
    assert (patches.size, patches.grid) == (64, tuple(2 * each if i else each for i, each in enumerate(_grid())))


def test_photos_of_ones_own_are_shrunk_without_aliases_unless_told_otherwise() -> None:
    images = Images(300, side=400, longest=400)
    assert {view.interpolation for view in fitted(auto("byol"), images).views.values()} == {"antialiased"}
    found = fitted(auto("moco", views__query__interpolation="cubic", views__key__flip=0.1), images).views
    assert (found["query"].interpolation, found["key"].interpolation, found["key"].flip) == ("cubic", "antialiased", 0.1)
    digits = fitted(auto("byol", data__source="digits", method__preset="auto"), images).views
    assert {view.interpolation for view in digits.values()} == {"linear"}


def test_a_plan_trains_in_this_process_where_one_has_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    images, two = Images(1000), Machine("cuda", 16, 128e9, 2, 80e9)
    assert fitted(auto("moco"), images).scale.workers == (0, 0)
    assert fitted(auto("moco"), images, dataclasses.replace(two, gpus=1)).scale.workers == (0, 0)
    assert fitted(auto("moco"), images, two).scale.workers == (1, 1)
    assert fitted(auto("moco", **{"scale.workers": (2, 2)}), images).scale.workers == (2, 2)
    assert fitted(auto("moco", **{"scale.address": "10.0.0.1:6379"}), images).scale.workers == (1, 1)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert fitted(auto("moco"), images).scale.workers == (1, 1)
    assert auto("moco").run_name == auto("moco", **{"scale.workers": (2, 2)}).run_name


@pytest.mark.parametrize(("threads", "found"), [("1", 1), ("1,2", 1), (" 1 ", 1), ("", 2), ("0", 1), ("many", 2), ("64", 2)])
def test_threads_are_limited_as_everywhere(threads: str, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(processors, "words_in", lambda _: [])
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert processors.cores() == found
    assert processors.processors() == 2


def test_a_container_s_share_of_a_large_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(processors, "words_in", lambda _: ["200000", "100000"])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert processors.processors() == processors.cores() == 2
    assert at_once_of(auto("moco"), 0) == 2, "runs at once, on this machine"


def test_loaders_are_there_where_they_are_worth_a_core() -> None:
    cpu, gpu = Machine("cpu", 4, 16e9), Machine("cuda", 4, 16e9, 1, 80e9)
    assert loaders_for(1e-4, 1e-3, cpu) == 0  # views of thumbnails: the step's threads would wait for each other
    assert loaders_for(1e-2, 1e-3, cpu) == 3  # photos that are decoded at each access
    assert loaders_for(1e-2, 1e-3, dataclasses.replace(cpu, cores=1)) == 0
    assert loaders_for(1e-4, 1e-3, gpu) == 1
    assert loaders_for(1e-2, 1e-3, gpu) == 3


def test_what_cores_gain_together_is_what_they_were_measured_to_gain() -> None:
    config, images = auto("moco"), Images(1000)
    trial = dataclasses.replace(cost_of(config), views=0.0)
    slow, fast, capped = (
        Cost.of(config, images, Machine("cpu", 2, 16e9), dataclasses.replace(trial, speed=speed)) for speed in (1.0, 1.6, 9.0)
    )
    assert slow.sample == pytest.approx(1.6 * fast.sample)
    assert slow.sample == pytest.approx(2 * capped.sample)


def _grid() -> tuple[int, int, int]:
    return (load_method("cpc").presets["cifar"].views or {})["patches"].grid


def test_photos_are_read_small() -> None:
    config = auto("simclr")
    assert rules.reading(config, Images(10, side=3000, longest=4000), CPU) == 160
    assert rules.reading(config, Images(10, side=200, longest=200), CPU) == 0
    assert rules.reading(auto("simclr", data__shorter_side=99), Images(10, side=3000, longest=4000), CPU) == 99


def test_a_method_of_ones_own_has_a_plan_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = Path(load_method("simsiam").method.__init__.__code__.co_filename).read_text()
    head, _, rest = text.partition("PRESETS = {")
    file.write_text(
        f'{head}PRESETS = {{"paper": Preset("as in the paper")}}\n\n\nclass {rest.partition("class ")[2]}'.replace(
            "from ._", "from contray.methods._"
        )
    )
    found = fitted(RunConfig.make(str(file), {"data.source": "photos/", "train.device": "cpu"}), Images(40, side=32, longest=32))
    model.check(found, 40)
    assert (found.backbone.name, found.optim.name) == ("resnet_small", "adamw")


# ---------------------------------------------------------------- keys and names


def test_own_data_get_a_plan_and_named_sources_their_presets() -> None:
    assert [RunConfig.make("simclr", {"data.source": name}).method.preset for name in ("digits", "cifar10", "stl10", "x/")] == [
        "digits", "cifar", "paper", "auto",
    ]  # fmt: skip
    assert RunConfig.make("simclr", {"data.source": "x/"}, preset="paper").train.planned == ()
    with pytest.raises(ConfigError, match=r"train\.budget: is what preset auto plans for; paper says itself"):
        RunConfig.make("simclr", {"data.source": "x/", "train.budget": 5}, preset="paper")
    with pytest.raises(ConfigError, match=r"train\.budget: is what preset auto plans for"):
        RunConfig.make("simclr", {"train.budget": "2h"}, preset="paper")
    assert RunConfig.make("simclr", {"train.budget": "30"}, preset="paper").train.budget == 30


def test_what_was_once_planned_counts_in_the_name_under_another_preset() -> None:
    found = fitted(auto("simclr"), Images(2000))
    names = {found.replace({"method.preset": preset, "optim.lr": lr, "train.planned": found.train.planned}).run_name
             for preset in ("auto", "cifar") for lr in (0.1, 0.2)}  # fmt: skip
    assert len(names) == 3


def test_workers_with_gpus_are_not_planned_for_by_a_machine_without(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "check_machines", lambda config: None)
    keys = {
        "data.source": str(photos),
        "scale.address": "10.0.0.1:6379",
        "scale.workers": (1, 2),
        "scale.gpus_per_worker": 1,
    }
    config = RunConfig.make("simclr", keys, preset="auto")
    monkeypatch.setattr(model, "device_of", lambda config: torch.device("cpu"))
    monkeypatch.setattr(launching, "planned", lambda *about: (config, "made"))
    with pytest.raises(
        ConfigError, match=r"^method.preset: auto plans for the machine that it runs on, which has no GPU where the workers have"
    ):
        launching.plan_of(config, data.open_source(config), Storage(str(tmp_path / "none")), True)
    monkeypatch.setattr(model, "device_of", lambda config: torch.device("cuda"))
    assert launching.plan_of(config, data.open_source(config), Storage(str(tmp_path / "none")), True)[1] == "made"


def test_another_budget_makes_another_plan() -> None:
    found = fitted(auto("simclr"), Images(500))
    assert not found.unplanned
    longer = RunConfig.from_yaml(found.to_yaml(), {"train.budget": 120})
    assert longer.unplanned
    assert longer.train.planned == found.train.planned
    assert longer.run_name != found.run_name


@pytest.mark.parametrize(("text", "found"), [("90s", 1.5), ("30m", 30), ("2h", 120), ("1.5h", 90), ("45", 45), ("10 min", 10)])
def test_a_budget_is_a_time(text: str, found: float) -> None:
    assert minutes(text) == pytest.approx(found)


@pytest.mark.parametrize("text", ["", "soon", "0", "-3m", "3 days"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--budget: got .*such as 90s, 30m or 2h"):
        minutes(text, "--budget")


# ---------------------------------------------------------------- all that is wrong at once


def test_all_violations_are_told_with_values_that_work(capsys: pytest.CaptureFixture[str]) -> None:
    config = RunConfig.make("moco", {"data.source": "photos/"}, preset="paper")
    with pytest.raises(ConfigError) as refused:
        model.check(config, 24)
    said = str(refused.value)
    assert said.startswith("train.batch_size: got 256, but photos/ has 24 training samples")
    assert "method.queue_size: got 65536, must be from 8 " in said
    assert said.endswith("or take --preset auto, a plan fitted to the data")
    from contray.cli.options import config_from, split_dotted

    line = said.partition("This works: contray train moco --preset paper ")[2].partition(";")[0]
    dotted, plain = split_dotted(line.split())
    assert not plain
    model.check(config_from("moco", "paper", None, dotted), 24)


@pytest.mark.parametrize(
    ("method", "preset"),
    [("moco", "paper"), ("infomin", "cifar"), ("swav", "b256"), ("deepcluster", "paper"), ("simclr_v2", "memory")],
)
@pytest.mark.parametrize("samples", [9, 300])
def test_what_would_do_does(method: str, preset: str, samples: int) -> None:
    config = RunConfig.make(method, preset=preset)
    model.laws.check(config.replace(model.laws.mended(config, samples)), samples)  # pyright: ignore[reportAttributeAccessIssue]


# ---------------------------------------------------------------- the plan of a run


def test_photos_are_read_at_the_size_that_is_drawn_from(tmp_path: Path) -> None:
    for i in range(8):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), np.full((480, 640, 3), 20 * i, np.uint8))
    config = RunConfig.make("simclr", {"data.source": str(tmp_path), "train.budget": 0.5, "scale.workers": (0, 0)})
    found, plan = planning.planned(config, data.open_source(config))
    assert found.data.shorter_side == 160
    assert "photos are read at 160 px" in str(plan)


def test_a_plan_is_told_kept_and_adopted(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig.make(
        "moco",
        {"data.source": str(photos), "train.budget": 0.5, "scale.workers": (0, 0), "scale.storage": str(tmp_path / "runs")},
    )
    found, plan = planning.planned(config, data.open_source(config))
    assert len(plan.lines) == 10
    assert plan.lines[0].startswith("data     21 images of 40 x 30 px, 2 classes, 3 test images")
    assert plan.command == f"contray train --config {tmp_path}/runs/{config.run_name}/config.yaml"
    assert str(plan.lines[-1]).endswith(plan.command)
    assert measure(found, look(found, data.open_source(found))).seconds > 0
    folder = Storage(str(tmp_path / "runs")) / config.run_name
    folder.create()
    assert planning.keep(folder, found, plan) == (found, plan)
    monkeypatch.setattr(launching, "planned", lambda *_: pytest.fail("a plan is made once"))
    again, kept = launching.plan_of(
        config.replace({"data.workers": 3}), data.open_source(config), Storage(config.scale.storage), True
    )
    assert (again.data.workers, kept and kept.lines) == (3, plan.lines)
    assert again == found.replace({"data.workers": 3})
    assert launching.plan_of(found, data.open_source(config), Storage(config.scale.storage), True) == (found, None)
    with pytest.raises(UserError, match=r"data\.source: .*plan\.json was planned for 21 images of .*, and 22 train now; give "):
        planning.adopted(folder, config, 22)
    with pytest.raises(UserError, match=r"track\.name: .*plan\.json was planned for another config; give this run another"):
        planning.adopted(folder, config.replace({"train.budget": 2}))
    (tmp_path / "runs" / config.run_name / planning.KEPT).write_text("{}")
    with pytest.raises(UserError, match=r"plan\.json is damaged"):
        planning.adopted(folder, config)
    folder.remove(planning.KEPT)
    assert planning.adopted(folder, config) is None
    folder.write("step-000000007.pt", dump({"method": {}, "config": found.to_yaml()}))
    lost = planning.adopted(folder, config)
    assert lost is not None
    assert lost[0] == found, "what the run was trained with goes on, never a new plan"


def test_the_dry_run_of_ones_own_photos(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "swav", "--data.source", str(photos), "--budget", "30s", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "fix it" not in shown, "there is no such file before the run has begun"
    assert "keep it  the same with --dry-run --show-config" in shown
    assert "nothing was started" in shown
    assert "optim:" not in shown, "the YAML is for --show-config"
    assert main(["train", "swav", "--data.source", str(photos), "--budget", "30s", "--dry-run", "--show-config"]) == 0
    planned = RunConfig.from_yaml(capsys.readouterr().out)
    assert planned.method.name == "swav"
    assert not planned.unplanned
    for method, column in (("clip", "caption"), ("cpc_sequence", "signal")):
        assert main(["train", method, "--data.source", str(photos), "--dry-run"]) == 2
        assert f"no column '{column}'" in capsys.readouterr().err


# ---------------------------------------------------------------- the guard


def large(**keys: object) -> tuple[RunConfig, data.Source]:
    given = {"views.view.size": 96, "data.renderings": 1, "train.device": "cpu"}
    config = RunConfig.make("simclr", given | {key.replace("__", "."): value for key, value in keys.items()}, preset="digits")
    return config, data.open_source(config)


def known(config: RunConfig, source: data.Source, here: Machine = CPU, **trial: float) -> Cost:
    images = Images(len(source.train))
    return Cost.of(config, images, here, dataclasses.replace(cost_of(config), **trial))


def test_a_small_run_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contray.planning.estimates.measure", lambda *_: pytest.fail("its shapes tell that it is small"))
    for method in ("simclr", "moco", "swav", "dino", "mae"):
        config = RunConfig.make(method)
        guard(config, data.open_source(config))
    assert not small(RunConfig.make("simsiam", preset="paper"), 1000)


def test_more_memory_or_disk_than_there_is_is_refused_with_what_would_fit() -> None:
    config, source = large()
    model.check(config, len(source.train))
    found = estimate(config, source, known(config, source, activations=1_000_000_000))
    with pytest.raises(
        ConfigError,
        match=r"train\.batch_size: got 128, for which the run takes 129\.\d GB of memory, and this machine has 24\.0 GB; .*",
    ) as refused:
        refuse(found)
    fits = int(str(refused.value).partition("--train.batch_size ")[2].split()[0])
    smaller = config.replace({"train.batch_size": fits})
    refuse(estimate(smaller, source, known(smaller, source, activations=1_000_000_000)))
    grouped = config.replace({"train.norm_groups": 16})
    found = estimate(grouped, source, known(grouped, source, activations=1_000_000_000))
    with pytest.raises(ConfigError, match=r"--scale\.max_batch_per_worker \d+ would fit and computes the same"):
        refuse(found)
    with pytest.raises(ConfigError, match=r"backbone\.name: got resnet_small: .*whatever the batch"):
        refuse(estimate(config, source, known(config, source, fixed=30_000_000_000)))
    with pytest.raises(ConfigError, match=r"scale\.storage: .*5 MB free"):
        refuse(estimate(config, source, known(config, source, dataclasses.replace(CPU, disk=5e6))))


def test_more_than_a_day_needs_a_yes(capsys: pytest.CaptureFixture[str]) -> None:
    config, source = large(train__steps=10_000_000)
    cost = known(config, source)
    with pytest.raises(UserError, match=r"train\.steps: about \d+(\.\d)? days on this machine's CPU, more than a day: --yes "):
        guard(config, source, cost=cost)
    guard(config, source, cost=cost, yes=True)
    guard(config, source, cost=known(config, source, GPU))
    assert duration_words() == ["59 s", "10 min", "2.0 h", "3.0 days"]


def duration_words() -> list[str]:
    return [words.duration(seconds) for seconds in (59, 600, 7200, 3 * 86400)]


def test_a_refused_run_leaves_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("contray.planning.estimates.machine", lambda config: dataclasses.replace(machine(config), memory=1e9))
    words = [
        "--data.source",
        str(photos),
        "--preset",
        "paper",
        "--train.batch_size",
        "16",
        "--scale.workers",
        "0",
        "0",
        "--views.view.size",
        "64",
    ]
    assert main(["train", "simsiam", *words]) == 2
    assert "GB of memory, and this machine has 1.0 GB" in capsys.readouterr().err
    assert main(["train", "simsiam", *words, "--dry-run"]) == 0
    assert re.search(r"^refused +backbone\.name: got .* this machine has 1\.0 GB", capsys.readouterr().out, re.MULTILINE)
    assert not (tmp_path / "contray_runs").exists()
    assert not (tmp_path / "mlflow.db").exists()
