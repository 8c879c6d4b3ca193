"""A sweep's printed links in a real browser: MLflow's pages must show the trials, what was searched and what came out."""

from __future__ import annotations

import re
import socket
from contextlib import closing
from pathlib import Path

import pytest

from contray import track
from contray.cli import main
from contray.track import ui
from tests.browser import chromium, page_text

pytestmark = [
    pytest.mark.ray,
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium() is None, reason="there is no Chromium: apt-get install chromium, or name one in CONTRAY_CHROMIUM"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray", "ignore:unclosed:ResourceWarning"),
]
TINY = {
    "data.size": 16, "data.renderings": 1, "data.workers": 0, "views.query.size": 16, "views.key.size": 16, "backbone.width": 4,
    "method.hidden": 16, "method.dim": 8, "train.batch_size": 64, "train.steps": 4, "train.precision": "fp32", "eval.linear.epochs": 2,
    "scale.workers": "0 0", "scale.cpus_per_worker": 1,
}  # fmt: skip


def test_the_printed_links_show_the_trials(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {**TINY, "scale.storage": tmp_path / "runs", "track.uri": store}
    options = [word for key, value in keys.items() for word in (f"--{key}", *str(value).split())]
    assert main(["tune", "moco", "--samples", "4", "--scheduler", "none", *options]) == 0
    printed = capsys.readouterr().out
    links = re.findall(r"http://127\.0\.0\.1:5000/#\S+", printed)
    sweep_link = next(link for link in links if "/runs/" in link)
    comparison_link = next(link for link in links if "compare-runs" in link)

    talk = track.client(store)
    (experiment,) = (found for found in talk.search_experiments() if found.name == "contray")
    runs = talk.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = (run for run in runs if run not in children)
    assert len(children) == 4

    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ui.server(store, port) as address:
        searched = ["method.temperature", "method.queue_size"]
        shown = page_text(sweep_link.replace("http://127.0.0.1:5000", address), [parent.info.run_name, "linear_top1", *searched])
        assert "knn_top1" in shown
        names = [run.info.run_name for run in children]
        page_text(
            comparison_link.replace("http://127.0.0.1:5000", address),
            [*names, "Parallel Coordinates Plot", "linear_val_top1", *searched],
        )
        all_runs = track.experiment_url(address, experiment.experiment_id)
        page_text(all_runs, [parent.info.run_name])
