"""The tutorial and what follows it, typed as they stand, in order, in one folder."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from contray.cli import main
from contray.config.registry import load_method
from contray.evaluation._base import ENCODERS
from tests.docs.texts import DOCS, blocks

TYPED = ("tutorial.md", "howto/export.md")
LEFT_OUT = ("--run RUN_ID", "contray import")  # of the second: what needs a run by its id, or a file that is not there


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    """The folder, and (what was typed, what came) of each step."""
    folder, done = tmp_path_factory.mktemp("tutorial"), []
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setenv("COLUMNS", "120")
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    try:
        for text in TYPED:
            for kind, inner in blocks((DOCS / text).read_text(), "bash", "python"):
                for step in inner.splitlines() if kind == "bash" else [inner]:
                    if not any(each in step for each in LEFT_OUT):
                        done.append((step, _typed(kind, step)))
        yield folder, done
    finally:
        patch.undo()


def _typed(kind: str, step: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        if kind == "bash":
            program, *words = shlex.split(step)
            assert program == "contray"
            assert main(words) == 0, step + shown.getvalue()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the libraries that the step is about
                exec(compile(step, "a step of the tutorial", "exec"), {})
    return shown.getvalue()


def test_every_step_does_what_the_text_says(session: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, done = session
    said = {step: shown for step, shown in done}
    trained = [shown for step, shown in done if step.startswith("contray train") and "--dry-run" not in step]
    assert len(trained) == 3
    assert all("gain over untrained encoder" in shown for shown in trained)
    assert all("held-out" in shown for shown in trained[1:])
    for made in (
        "neighbours.png",
        "views.png",
        "report.html",
        "encoder-torchvision/model.safetensors",
        "encoder-onnx/model.onnx",
    ):
        assert (folder / made).stat().st_size > 0, made
    assert "photos-moco" in said["contray compare"]
    assert re.search(r"\(2, \d+\)", "".join(shown for step, shown in done if "onnxruntime" in step))
    assert re.search(r"[(\[]2, \d+[)\]]", "".join(shown for step, shown in done if "contray.load" in step))
    assert "load_state_dict" in "".join(shown for step, shown in done if "How to load it" in step)


def test_every_logged_value_is_explained(session: tuple[Path, list[tuple[str, str]]]) -> None:
    """By the page of metrics, or in the method's file."""
    from mlflow import MlflowClient

    folder, _ = session
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    page = (DOCS / "reference" / "metrics.md").read_text()
    explained = set(re.findall(r"`([a-z][\w/]*)`", page))
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert len(runs) == 3
    for run in runs:
        own = load_method(run.data.params["method.name"]).metrics
        for name in run.data.metrics:
            bare = re.sub(f"^({'|'.join(filter(None, ENCODERS))})", "", name)
            assert name.startswith("system/") or bare in explained or name in own, name
