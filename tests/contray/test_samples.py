"""Which images numbers are of: online k-NN sees every class, broken test images are no test images, too little is refused before training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from contray import RunConfig, data, model
from contray.cli import main
from contray.data.splits import ArraySplit
from contray.errors import ConfigError, DataError
from contray.evaluation.common.diagnosis import Diagnosis
from contray.evaluation.common.features import OnlineSubject, online_parts
from contray.evaluation.common.protocol import gain_error, report
from contray.evaluation.common.samples import check_measurable, held_out, measurable
from contray.evaluation.common.watch import Watch
from contray.evaluation.knn import knn_top1
from contray.training.lease import Fenced
from contray.tuning.outcome import Trial, ranked
from contray.tuning.trial import TuneReport
from tests.contray.evaluations import verdict

CPU = torch.device("cpu")
TINY = {
    "data.workers": 0, "train.batch_size": 8, "train.precision": "fp32", "views.view.size": 16, "backbone.width": 4,
    "method.projector_hidden": 16, "method.projector_dim": 8, "eval.linear.epochs": 2, "eval.linear.lrs": (1.0,), "eval.linear.decays": (0.0,),
    "eval.knn.k": 5,
}  # fmt: skip


def config_of(**more: Any) -> RunConfig:
    return RunConfig.make("simclr", {**TINY, **{key.replace("__", "."): value for key, value in more.items()}}, preset="digits")


def source_of(labels: Iterable[int], test: Iterable[int] | None = None, classes: int = 0) -> data.Source:
    """Images whose colour is their class: any encoder tells them apart."""

    def split(labels: Iterable[int], seed: int) -> ArraySplit:
        y = np.array(list(labels))
        noise = np.random.default_rng(seed).integers(0, 20, (len(y), 16, 16, 3), np.uint8)
        tints = np.random.default_rng(0).integers(0, 235, (64, 3)).astype(np.uint8)
        return ArraySplit("part", noise + tints[y][:, None, None], y, names)

    train = list(labels)
    names = [f"class {i}" for i in range(classes or max(train) + 1)]
    return data.Source("set", split(train, 1), None if test is None else split(test, 2))


def photos(root: Path, train: dict[str, int], test: dict[str, int] | None = None, broken: int = 0) -> Path:
    """A folder of images per class; the first `broken` test images hold no image."""
    rng, left = np.random.default_rng(0), broken
    for part, counts in (("train", train), ("test", test or {})):
        for number, (name, count) in enumerate(counts.items()):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (16, 16, 3), np.uint8) + np.uint8(60 * number)
                path = root / part / name / f"{i:03}.png"
                Image.fromarray(pixels).save(path)
                if part == "test" and left:
                    path.write_bytes(b"no image")
                    left -= 1
    return root


def shown(table: Any) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


# ---------------------------------------------------------------- what selects


def test_the_online_knn_sees_every_class_of_a_sorted_set() -> None:
    """The first hundred of 20 sorted classes would be of three."""
    source, config = source_of(np.repeat(np.arange(20), 30)), config_of(eval__online_limit=100)

    def ids(config: RunConfig) -> tuple[np.ndarray, np.ndarray]:
        return OnlineSubject(config, CPU, source).held_out

    bank, queries = ids(config)
    assert len(bank) + len(queries) == 100
    searched, asked = source.train.labels[bank], source.train.labels[queries]
    assert set(asked) == set(searched) == set(range(20))
    assert all(map(np.array_equal, ids(config), (bank, queries))), "the same images at each start"
    assert not all(map(np.array_equal, ids(config.replace({"seed": 1})), (bank, queries)))
    found = Watch(config, source, CPU, None)(model.build(config, 600).eval())
    assert {name: found[name] for name in found if "_images" in name} == {"fit_images": len(searched), "val_images": len(asked)}


@pytest.mark.parametrize("limit", [100, 150, 10_000])
def test_online_parts_are_of_their_sides_and_within_the_limit(limit: int) -> None:
    labels = np.repeat(np.arange(10), 100)
    fit, val = np.flatnonzero(np.arange(1000) % 10), np.arange(0, 1000, 10)
    bank, asked = online_parts(fit, val, labels, limit, 0)
    assert len(bank) + len(asked) == min(limit, 1000)
    assert set(bank) <= set(fit)
    assert set(asked) <= set(val)
    assert len(asked) == max(10, round(min(limit, 1000) / 10))


def test_features_that_are_no_numbers_give_no_accuracy() -> None:
    """Votes of NaN would all go to the first class, and be right now and then."""
    source, config = source_of([0] * 30 + [1] * 30), config_of()
    method = model.build(config, 60)
    with torch.no_grad():
        next(method.backbone.parameters()).fill_(math.nan)
    found = Watch(config.replace({"eval.online": "knn"}), source, CPU, None)(method)
    assert math.isnan(found["knn_val_top1"])
    assert found["val_images"] == 6


def test_what_is_no_number_is_never_the_best() -> None:
    def trial(name: str, value: float) -> Trial:
        return Trial(name, {}, "finished", {"linear_val_top1": value}, "", "", 1)

    for low, high in ((0.2, 0.6), (-1.5, -1.2)):  # a metric of one's own may lie below 0
        for values in ((math.nan, low, high), (high, math.nan, low), (low, high, math.nan)):
            found = ranked([trial(str(value), value) for value in values], "linear_val_top1", "knn_val_top1")
            assert [each.name for each in found] == [str(high), str(low), "nan"]


def test_a_scheduler_is_told_the_worst_of_what_is_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ASHA compares with NaN in vain and lets the trial go on."""
    from ray import tune

    told: list[float] = []
    monkeypatch.setattr(tune, "report", lambda values, checkpoint: told.append(values["knn_val_top1"]))
    report = TuneReport("a", Fenced(str(tmp_path), ""))
    for step, value in enumerate((0.5, math.nan, 0.25), 1):
        report.show({"knn_val_top1": value, "evaluated": step, "total": 9})
    assert told == [0.5, -1.0, 0.25]


def test_top1_of_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="top-1 of no image is no number"):
        knn_top1(torch.ones(3, 2), torch.tensor([0, 1, 1]), torch.ones(0, 2), torch.ones(0).long(), classes=2)


def test_geometry_does_not_meet_one_class_of_an_alternating_set() -> None:
    """Every other image of 4095 is of the other class: 2048 at equal steps would all be of one."""
    source = source_of(np.arange(4095) % 2)
    diagnosis = Diagnosis(config_of(), source, CPU)
    ids = diagnosis.asked[0].ids
    assert len(ids) == 2048
    assert 0.4 < source.train.labels[ids].mean() < 0.6
    pairs = diagnosis.asked[1].ids
    assert 0.4 < source.train.labels[pairs].mean() < 0.6


# ---------------------------------------------------------------- what numbers are of


def test_broken_test_images_are_no_test_images(tmp_path: Path) -> None:
    """6 of 12 are broken: six numbers, and the error bar of six."""
    folder = photos(tmp_path, {"cat": 20, "dog": 20}, {"cat": 6, "dog": 6}, broken=6)
    config = config_of(data__source=str(folder), data__max_broken=0.5)
    source = data.open_source(config.data)
    check_measurable(config, source)
    found = verdict(config, source, model.build(config, 40))
    assert {name: found[name] for name in ("fit_images", "val_images", "test_images", "test_images_broken")} == {
        "fit_images": 36, "val_images": 4, "test_images": 6, "test_images_broken": 6,
    }  # fmt: skip
    said = shown(report({**found, "knn_top1": 0.5}))
    assert "top-1 on 6 test images (6 more could not be read)" in said
    assert "50.0 ± 20.4" in said  # sqrt(0.25 / 6)

    strict = config.replace({"data.max_broken": 0.05})
    with pytest.raises(
        DataError, match=r"6 of 12 test images are broken, more than data\.max_broken 0\.05 allows \(.*/cat/000\.png: "
    ):
        check_measurable(strict, data.open_source(strict.data))
    with pytest.raises(DataError, match=r"6 of 12 images are broken, more than data\.max_broken 0\.05 allows"):
        verdict(strict, data.open_source(strict.data), model.build(config, 40))


def test_of_many_test_images_a_few_are_probed_and_all_where_these_are_broken(tmp_path: Path) -> None:
    folder = photos(tmp_path, {"cat": 3, "dog": 3}, {"cat": 60, "dog": 60}, broken=40)
    config = config_of(data__source=str(folder), data__memory_gb=0.0)
    with pytest.raises(DataError, match="40 of 120 test images are broken"):
        check_measurable(config, data.open_source(config.data))
    check_measurable(config.replace({"data.max_broken": 0.4}), data.open_source(config.data))


def test_held_out_numbers_are_shown_where_there_are_no_test_labels() -> None:
    config = config_of()
    found = verdict(config, source_of([0] * 30 + [1] * 30), model.build(config, 60))
    assert "test_images" not in found
    said = shown(report(found, knn_k=200))
    assert "top-1 on 6 held-out training images" in said
    assert "no labelled test images" in said
    assert "trained encoder" in said
    assert "k-NN: all 54 labelled images vote, not eval.knn.k 200" in said
    hidden = source_of([0] * 30 + [1] * 30, [0, 1])
    assert hidden.test is not None
    hidden.test.labels = None
    assert verdict(config, hidden, model.build(config, 60)) == found


def test_the_error_of_a_gain_is_paired() -> None:
    """9 of 10 told right against 7: the difference is of the two or four images that one of them alone tells right."""
    ours = torch.tensor([True] * 9 + [False])
    near = torch.tensor([True] * 7 + [False] * 3)
    far = torch.tensor([False] + [True] * 6 + [False] * 2 + [True])
    for other, differences in ((near, [0] * 7 + [1, 1, 0]), (far, [1] + [0] * 6 + [1, 1, -1])):
        assert gain_error(ours, other) == pytest.approx(np.std(differences) / math.sqrt(10))
    assert gain_error(ours, near) < gain_error(ours, far)
    said = shown(
        report({"knn_top1": 0.9, "random_knn_top1": 0.7, "random_knn_gain_error": gain_error(ours, near), "test_images": 10})
    )
    assert "+20.0 ± 12.6" in said
    config = config_of()
    found = verdict(config, source_of([0, 1] * 30, [0, 1] * 5), model.build(config, 60))
    errors = {name for name in found if name.endswith("_gain_error")}
    assert errors == {f"{prefix}_{name}_gain_error" for prefix in ("random", "pixels") for name in ("knn", "linear")}
    assert all(0 <= found[name] <= 0.5 / math.sqrt(9) for name in errors)


def test_error_bars_of_few_images() -> None:
    for right, images, expected in ((1.0, 1, "100.0 ± 25.0"), (0.0, 4, "0.0 ± 10.0"), (0.75, 4, "75.0 ± 21.7")):
        said = shown(report({"knn_top1": right, "test_images": images}))
        assert expected in said
        assert f"top-1 on {images} test image{'s' * (images > 1)}" in said
    assert "±" not in shown(report({"knn_top1": 0.5})), "of an unknown number of images there is no error bar"


# ---------------------------------------------------------------- too little


@pytest.mark.parametrize(
    ("labels", "test", "said"),
    [
        ([0] * 40, None, r"^data\.source: all training images of set have the same label, and an evaluation needs two classes; --eval\.final"),
        ([0] * 10 + [1], None, r"^eval\.holdout: got 0\.1, which holds out 1 of the 11 .*; 0\.2 would do, or --eval\.final= "),
        ([0, 1] * 10, [0, 2], r"^data\.source: training and test images of set have other classes"),
    ],
)  # fmt: skip
def test_too_little_to_measure_by_is_refused_before_training(
    labels: Iterable[int], test: Iterable[int] | None, said: str
) -> None:
    source, config = source_of(labels, test, classes=3 if test and 2 in test else 0), config_of()
    with pytest.raises((ConfigError, DataError), match=said):
        check_measurable(config, source)
    check_measurable(config.replace({"eval.final": (), "eval.every_epochs": 0.0}), source)


@pytest.mark.parametrize(("labels", "test"), [(range(20), None), ([0, 1], [0, 1])])
def test_a_single_image_of_each_class_measures_no_label(labels: Iterable[int], test: Iterable[int] | None) -> None:
    source = source_of(labels, test)
    assert not measurable(source), "geometry is what is left"
    check_measurable(config_of(), source)


def test_what_would_do_does() -> None:
    source, config = source_of([0] * 10 + [1]), config_of(eval__holdout=0.2)
    check_measurable(config, source)
    assert len(held_out(config, source)[1]) == 2


@pytest.mark.parametrize(("labels", "test"), [([0, 0, 1, 1], [0]), ([*range(20), *range(20)], [3]), ([0] * 10 + [1] * 3, [1, 1])])
def test_little_is_measured(labels: list[int], test: list[int]) -> None:
    """Two images of each class, a test set of one image, more classes than neighbours."""
    source, config = source_of(labels, test), config_of()
    check_measurable(config, source)
    found = verdict(config, source, model.build(config, len(labels)))
    assert found["test_images"] == len(test)
    assert all(0 <= value <= 1 for name, value in found.items() if "top1" in name)


# ---------------------------------------------------------------- runs


@pytest.fixture
def words(store: str, tmp_path: Path) -> list[str]:
    """A command line that trains five steps on a folder to be named."""
    keys = {
        **TINY, "train.steps": 5, "scale.workers": (0, 0), "scale.cpus_per_worker": 1, "scale.storage": str(tmp_path / "runs"),
        "track.uri": store, "track.name": "r", "track.model": "false",
    }  # fmt: skip
    options = [
        word
        for key, value in keys.items()
        for word in (f"--{key}", *(map(str, value) if isinstance(value, tuple) else [str(value)]))
    ]
    return ["train", "simclr", "--preset", "digits", *options, "--data.source"]


def test_a_run_without_test_images_ends_in_its_held_out_numbers(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "photos", {"cat": 20, "dog": 20})
    assert main([*words, str(folder), "--data.test_share", "0"]) == 0
    said = capsys.readouterr().out
    assert "top-1 on 4 held-out training images" in said
    assert "trained encoder" in said


def test_a_run_with_broken_test_images_is_refused_before_it_starts(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "photos", {"cat": 20, "dog": 20}, {"cat": 6, "dog": 6}, broken=12)
    assert main([*words, str(folder)]) == 2
    assert "12 of 12 test images are broken" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_that_cannot_be_measured_is_trained_all_the_same(
    words: list[str], store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test images break while it trains: the checkpoint stays, the run is finished and says why it has no verdict."""
    from contray import track
    from contray.training import worker

    folder = photos(tmp_path / "photos", {"cat": 20, "dog": 20}, {"cat": 6, "dog": 6})
    whole = {path: path.read_bytes() for path in (folder / "test").rglob("*.png")}
    train = worker.train

    def spoilt(*given: Any) -> Any:
        found = train(*given)
        for path in whole:
            path.write_bytes(b"")
        return found

    monkeypatch.setattr(worker, "train", spoilt)
    assert main([*words, str(folder)]) == 1
    printed = capsys.readouterr()
    run_id = printed.out.partition("MLflow run")[2].split()[0]
    assert "contray: r is trained, but not measured: data.source: 12 of 12 images are broken" in printed.err
    assert f"the same command measures it, or `contray eval linear --run {run_id}`" in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert list((tmp_path / "runs" / "r").glob("step-*5.pt"))
    run = track.client(store).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert "12 of 12 images are broken" in run.data.tags["contray.unmeasured"]
    assert "rankme" in run.data.metrics
    assert "knn_top1" not in run.data.metrics

    monkeypatch.setattr(worker, "train", train)
    for path, content in whole.items():
        path.write_bytes(content)
    assert main([*words, str(folder)]) == 0, "what a scheduler starts again is measured, not trained anew"
    assert "going on with r" in capsys.readouterr().out
    run = track.client(store).get_run(run_id)
    assert (run.info.status, run.data.tags["contray.unmeasured"]) == ("FINISHED", "")
    assert "knn_top1" in run.data.metrics
    assert main([*words, str(folder)]) == 0
    assert "r is finished, so this is r-2" in capsys.readouterr().out


def test_a_run_tells_how_many_images_its_numbers_are_of(
    words: list[str], store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from contray import track

    folder = photos(tmp_path / "photos", {"cat": 20, "dog": 20}, {"cat": 6, "dog": 6}, broken=1)
    assert main([*words, str(folder), "--data.max_broken", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "top-1 on 11 test images (1 more could not be read)" in said
    assert f"left out a broken test image: {folder}/test/cat/000.png (not decodable)" in said
    logged = track.client(store).get_run(said.partition("MLflow run")[2].split()[0]).data.metrics
    assert [logged[name] for name in ("fit_images", "val_images", "test_images", "test_images_broken")] == [36, 4, 11, 1]
    assert main(["eval", "knn", "--checkpoint", str(tmp_path / "runs" / "r")]) == 0
    said = capsys.readouterr().out
    assert "on 11 test images" in said
    assert "1 more test images could not be read" in said
