"""Our links in a real browser: MLflow's pages must show the runs, the data, a sweep and its charts as wanted. CONTRAY_SCREENSHOTS keeps what was seen."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from contray import RunConfig, track
from contray.track import ui
from contray.training.describing import describe, title_of, trial_title
from tests.browser import browser, chromium, page_text
from tests.stores import fresh

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium() is None, reason="there is no Chromium: apt-get install chromium, or name one in CONTRAY_CHROMIUM"
    ),
    pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning", "ignore:unclosed:ResourceWarning"),
]
KEYS = ("method.temperature", "method.queue_size", "method.momentum", "augment.strength")
DATA = [
    track.Dataset("photos", "0123456789abcdef01234567", "training", "/data/photos", 1201, 3),
    track.Dataset("photos test", "0123456789abcdef01234567", "test", "/data/photos", 120, 3),
]
HEADINGS = (
    """() => [...document.querySelectorAll('[role=columnheader]')].map(c => [c.getBoundingClientRect().x, c.innerText.trim()])"""
)
"""Each heading of a table with where it is drawn: one that is moved stays where it stood in the page's text."""


class Pages(NamedTuple):
    """What is served, and a page to look at it with."""

    uri: str
    address: str
    page: Any
    run: track.TrackedRun
    sweep: track.TrackedRun

    def text(self, url: str, wait_for: list[str], name: str) -> str:
        folder = os.environ.get("CONTRAY_SCREENSHOTS")
        shot = Path(folder) / f"{name}.png" if folder else None
        return page_text(self.page, url.replace(track.base_url(self.uri), self.address), wait_for, shot)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """One run with curves and a verdict, one sweep of four trials."""
    folder = tmp_path_factory.mktemp("pages")
    uri = fresh(folder)
    config = RunConfig.make("moco", {"method.temperature": 0.5}, preset="digits")
    tags = {"contray.kind": "run", "contray.method": "moco", "contray.preset": "digits", "contray.dataset": "photos"}
    name = config.run_name
    run = track.begin(
        uri, "contray", title_of(config, name), params={"seed": 0}, tags={**tags, "contray.verdict": "It learnt a lot."}
    )
    log = track.MetricLog(run)
    log.inputs(DATA)
    for step in (1, 10, 20):
        log.log(
            step,
            {
                "loss": 5 / step,
                "lr": 0.1,
                "knn_val_top1": step / 40,
                "rankme": step,
                "images_per_second": 100.0,
                "positive_part": 1.0,
            },
        )
    log.log(
        20, {"knn_top1": 0.75, "random_knn_top1": 0.25, "linear_top1": 0.5, "random_linear_top1": 0.25, "grad_norm/layer1": 1.0}
    )
    log.durable(20)
    assert log.close(60) == 0
    describe(run, config, name)
    run.finish("FINISHED")
    sweep = track.begin(uri, "contray", "tune moco", params={}, tags={**tags, "contray.kind": "sweep"})
    for i in range(4):
        params = {
            "method.temperature": 0.1 * (i + 1),
            "method.queue_size": 256 * (i + 1),
            "method.momentum": 0.9,
            "augment.strength": i,
        }
        trial = track.begin(
            uri, "contray", trial_title(f"{i:05d}", params), params=params, tags={"contray.kind": "trial"}, parent_id=sweep.run_id
        )
        trial.log_metrics({"linear_val_top1": 0.5 + 0.1 * i, "knn_val_top1": 0.4, "loss": 1.0}, 20)
        trial.finish("FINISHED")
    sweep.finish("FINISHED")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ui.server(uri, port) as address, browser() as page:
        yield Pages(uri, address, page, run, sweep)


def test_the_table_of_runs_says_what_each_came_to_and_on_which_data(pages: Pages) -> None:
    url = track.runs_url(pages.uri, pages.run.experiment_id)
    columns = ["contray.method", "contray.preset", "Dataset", "knn_top1", "linear_top1", "knn_gain", "linear_gain", "Duration"]
    pages.text(url, ["moco digits: temperature=0.5", "photos (0123", "0.75", "contray: runs", *columns], "table")
    for _ in range(60):  # columns move to their places after they are drawn
        drawn = pages.page.evaluate(HEADINGS)
        headings = list(dict.fromkeys(word for _, word in sorted(drawn) if word in columns))  # a heading lies in a heading
        if headings == columns:
            break
        pages.page.wait_for_timeout(500)
    assert headings == columns, "in this order from the left"
    text = pages.page.inner_text("body")
    assert "Models" not in text.partition("Run Name")[2].partition("moco digits")[0]
    pages.page.get_by_text("photos (0123").first.click()
    pages.page.wait_for_function("document.body.innerText.includes('num rows: 1201')", timeout=60_000)
    assert "photos test (0123" in pages.page.inner_text("body")


def test_a_run_says_what_it_is_and_how_to_use_it(pages: Pages) -> None:
    wanted = [
        "moco digits: temperature=0.5",
        "It learnt a lot.",
        "Differs from the preset",
        "method.temperature=0.5",
        "photos (0123",
    ]
    pages.text(pages.run.url, wanted, "run")


def test_charts_stand_in_sections_in_our_order(pages: Pages) -> None:
    url = track.runs_url(pages.uri, pages.run.experiment_id, charts=True)
    headings = [
        "Loss and schedule",
        "Held-out images while training",
        "Geometry of the features",
        "Test images",
        "Throughput and gradients",
    ]
    text = pages.text(url, ["Loss and schedule", "Test images"], "charts")
    places = [text.find(heading) for heading in headings]
    assert -1 not in places
    assert places == sorted(places)
    assert places[-1] > text.find("Model metrics") > places[-2], "what stands in no section"


def test_a_sweep_opens_on_its_metric_over_all_that_was_searched(pages: Pages) -> None:
    url = track.sweep_url(pages.uri, pages.sweep.experiment_id, pages.sweep.run_id, "linear_val_top1", KEYS, "knn_val_top1")
    text = pages.text(
        url, ["Parallel Coordinates", *KEYS, "linear_val_top1", "trial 03: temperature=0.4", "Sort: linear_val_top1"], "sweep"
    )
    assert text.find("trial 03") < text.find("trial 02") < text.find("trial 00"), "the best first"
    assert "moco digits: temperature" not in text, "trials alone"
