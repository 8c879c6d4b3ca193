"""Runs in words: names, descriptions, data sets and views that MLflow's pages show."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from contray import RunConfig, track
from contray.track import served, views
from contray.training.describing import NOTE, describe, differing, title_of, trial_title

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")  # MLflow 3.17 with SQLAlchemy 2.1


def test_a_name_says_method_preset_data_and_what_differs() -> None:
    plain = RunConfig.make("moco", preset="digits")
    end = f"({plain.digest('scale', 'track')})"
    assert title_of(plain, plain.run_name) == f"moco digits {end}"
    assert title_of(plain, f"{plain.run_name}-2") == f"moco digits {end[:-1]}-2)"
    own = plain.replace({"method.temperature": 0.5, "optim.lr": 0.25, "data.workers": 3, "scale.storage": "/x", "seed": 4})
    assert differing(own) == {"method.temperature": 0.5, "optim.lr": 0.25}
    assert title_of(own, own.run_name).startswith("moco digits: temperature=0.5, lr=0.25, seed 4 (")
    cifar = RunConfig.make("simclr", {"data.source": "cifar10"})
    assert title_of(cifar, cifar.run_name).startswith("simclr cifar on cifar10 (")
    assert title_of(own.replace({"track.name": "mine"}), "mine-2") == "mine-2"
    many = plain.replace({f"optim.{key}": 0.5 for key in ("lr", "weight_decay", "lr_end", "clip", "momentum")})
    assert "more (" in title_of(many, many.run_name)
    assert len(title_of(many, many.run_name)) <= 120
    assert trial_title("00004", {"method.temperature": 0.2, "optim.lr": 1 / 3}) == "trial 04: temperature=0.2, lr=0.3333"


def test_what_a_plan_filled_is_no_difference_from_its_preset() -> None:
    left = RunConfig.make("moco", {"data.source": "photos/"})
    filled = {"train.steps": 300, "views.query.size": 64, "backbone.width": 32, "train.planned_for": "24 images; 2 cores"}
    planned = left.replace({**filled, "train.planned": left.train.planned})
    assert differing(planned) == {}
    assert title_of(planned, planned.run_name).startswith("moco auto on photos (")
    assert differing(planned.replace({"method.temperature": 0.1})) == {"method.temperature": 0.1}


def test_a_description_follows_the_verdict_and_leaves_what_somebody_wrote(store: str) -> None:
    config = RunConfig.make("moco", {"method.temperature": 0.5}, preset="digits")
    run = track.begin(
        store, "x", "r", params={}, tags={"contray.kind": "run", "contray.images": "1438", "contray.plan": "a plan"}
    )
    assert describe(run, config, "folder")
    assert not describe(run, config, "folder"), "nothing new"
    run.log_metrics({"knn_top1": 0.9, "random_knn_top1": 0.4}, 3)
    assert describe(run, config, "folder")
    text = run.results()[1][NOTE]
    for words in (
        "1,438 images",
        "k-NN 90.0 % (+50.0 over",
        "`method.temperature=0.5`",
        f"contray.load('{run.run_id}')",
        "a plan",
        "`folder`",
    ):
        assert words in text
    run.set_tags({"contray.verdict": "Twice as good."})
    assert describe(run, config, "folder")
    assert "Twice as good." in run.results()[1][NOTE]
    run.set_tags({NOTE: "my own words", "contray.verdict": "Thrice."})
    assert not describe(run, config, "folder")
    assert run.results()[1][NOTE] == "my own words"


def test_gains_are_logged_beside_what_they_compare(store: str) -> None:
    run = track.begin(store, "x", "r", params={}, tags={})
    run.log_metrics(
        {"photos.linear_top1": 0.75, "photos.random_linear_top1": 0.5, "knn_val_top1": 1.0, "random_knn_val_top1": 0.5}, 0
    )
    log = track.MetricLog(run)
    log.log(7, {"knn_top1": 0.5, "random_knn_top1": 0.75})
    log.durable(7)
    assert log.close(30) == 0
    metrics = run.results()[0]
    assert {key: value for key, value in metrics.items() if "gain" in key} == {"photos.linear_gain": 0.25, "knn_gain": -0.25}


class Images(list):
    labels, classes = np.zeros(3), ("a", "b")


def test_the_data_are_named_once_with_digest_place_and_counts(store: str, tmp_path: Path) -> None:
    source = SimpleNamespace(name="photos", train=Images("abc"), test=Images("d"))
    sets = track.datasets_of(source, "0" * 50, str(tmp_path))  # pyright: ignore[reportArgumentType]
    assert [(each.name, each.context, each.images, each.classes) for each in sets] == [
        ("photos", "training", 3, 2),
        ("photos test", "test", 1, 2),
    ]
    run = track.begin(store, "x", "r", params={}, tags={})
    for _ in range(2):  # a run that goes on
        log = track.MetricLog(run)
        log.inputs(sets)
        assert log.close(30) == 0
    inputs = track.client(store).get_run(run.run_id).inputs
    assert inputs
    kept = inputs.dataset_inputs
    assert sorted((each.dataset.name, each.dataset.digest, each.tags[0].value) for each in kept) == [
        ("photos", "0" * 36, "training"),
        ("photos test", "0" * 36, "test"),
    ]
    assert json.loads(kept[0].dataset.source) == {"uri": str(tmp_path)}
    parent = track.begin(store, "x", "p", params={}, tags={})
    parent.share_inputs(run.run_id)
    assert parent.data_names() == {"photos", "photos test"}
    place = track.datasets_of(source, "0", "s3://key:secret@bucket/photos")[0].place  # pyright: ignore[reportArgumentType]
    assert place == "s3://bucket/photos"


def test_a_server_that_takes_no_data_sets_still_has_the_points(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    def refuse(*args: object, **kwargs: object) -> None:
        raise MlflowException("no", PERMISSION_DENIED)

    monkeypatch.setattr(MlflowClient, "log_inputs", refuse)
    run = track.begin(store, "x", "r", params={}, tags={})
    log = track.MetricLog(run)
    log.inputs([track.Dataset("d", "0", "training", "d", 1, 0)])
    log.log(1, {"loss": 1.0})
    log.durable(1)
    assert log.close(30) == 0
    assert run.results()[0] == {"loss": 1.0}


def test_views_are_kept_once_and_name_what_they_show(store: str) -> None:
    run = track.begin(store, "x", "r", params={}, tags={})
    for _ in range(2):
        runs = track.runs_url(store, run.experiment_id)
        swept = track.sweep_url(store, run.experiment_id, run.run_id, "linear_val_top1", ["optim.lr", "seed"], "knn_val_top1")
    tags = track.client(store).get_experiment(run.experiment_id).tags
    kept = {key.removeprefix(views.TAG): json.loads(value) for key, value in tags.items() if key.startswith(views.TAG)}
    assert sorted(kept) == sorted(url.partition("viewStateShareKey=")[2] for url in (runs, swept))
    for each in kept.values():
        state = json.loads(zlib.decompress(base64.b64decode(each["state"].removeprefix("deflate;"))))
        headings = [section["name"] for section in state["compareRunSections"]]
        assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= set(headings)
        if each["name"].startswith("contray: sweep"):
            parallel = state["compareRunCharts"][0]
            assert (parallel["type"], parallel["selectedParams"], parallel["selectedMetrics"]) == (
                "PARALLEL",
                ["optim.lr", "seed"],
                ["linear_val_top1"],
            )
    several = track.compared_url(store, [run.experiment_id, "7"], [run.run_id])
    assert several == track.compare_url(store, [run.experiment_id, "7"], [run.run_id])


def test_a_server_that_keeps_no_views_is_no_failure(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    def refuse(*args: object, **kwargs: object) -> None:
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    run = track.begin(store, "x", "r", params={}, tags={})
    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    assert track.runs_url(store, run.experiment_id) == track.experiment_url(store, run.experiment_id)
    assert track.compared_url(store, [run.experiment_id], [run.run_id]) == track.compare_url(
        store, run.experiment_id, [run.run_id]
    )
    assert capsys.readouterr().err.count("Permission denied") == 1


def test_links_name_the_port_used_last(store: str) -> None:
    assert track.base_url(store) == "http://127.0.0.1:5000"
    assert track.to_open(store, "URL") in ("contray ui, then URL", "URL")  # a server of somebody's may run there
    served.remember(store, "http://127.0.0.1:1")  # where nobody answers
    assert track.run_url(store, "1", "2").startswith("http://127.0.0.1:1/#/")
    assert track.to_open(store, "URL") == "contray ui --port 1, then URL"
    Path(f"{store.removeprefix('sqlite:///')}.ui").write_text("http://evil.example/#\n")
    assert track.base_url(store) == "http://127.0.0.1:5000"
    assert track.to_open("http://tracker:5000", "URL") == "URL"
