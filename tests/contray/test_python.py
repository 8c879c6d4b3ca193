"""contray as Python people use it: what is offered, what may be passed where, what comes back and how it shows itself."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import contray
from contray import RunConfig, UserError
from contray.api.named import Named, named
from contray.evaluation import Measured
from contray.pictures.picture import Picture
from contray.storage import sealed
from contray.storage.folder import Storage
from contray.training import launch as launching
from contray.training import progress
from contray.training.result import Result, Results

ID = "0123456789abcdef" * 2
METRICS = {"knn_top1": 0.5, "random_knn_top1": 0.25, "linear_top1": 0.75, "random_linear_top1": 0.5}
ABOUT = {"about": {"test_images": 400, "val_images": 40, "fit_images": 360}, "seconds": 8.2, "labelled": True}


def result(folder: Path | str = "runs/simclr-s0", **changes: Any) -> Result:
    known = {
        "name": "simclr-s0",
        "metrics": METRICS,
        "run_id": ID,
        "url": "http://x",
        "checkpoint": str(folder),
        "step": 9,
        "finished": True,
    }
    return Result(**{**known, "details": ABOUT, **changes})


# ---------------------------------------------------------------- what is offered


def test_what_is_offered_is_seen_before_it_is_used_and_loads_nothing_heavy() -> None:
    code = "import sys, contray; print(*dir(contray)); print('torch' in sys.modules, 'numpy' in sys.modules)"
    names, heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert set(contray.__all__) <= set(names.split())
    assert heavy == "False False"


@pytest.mark.parametrize("name", [name for name in contray.__all__ if name[0].islower()])
def test_every_function_teaches_by_an_example(name: str) -> None:
    assert f"contray.{name}(" in str(getattr(contray, name).__doc__)


# ---------------------------------------------------------------- what may be passed


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    found: list[RunConfig] = []

    def launch(config: RunConfig, **options: Any) -> Result:
        found.append(config)
        return result()

    monkeypatch.setattr(launching, "launch", launch)
    return found


def test_one_run_is_asked_for_in_many_ways(launched: list[RunConfig], tmp_path: Path) -> None:
    want = RunConfig.make("simclr", {"train.epochs": 3, "data.renderings": 2})
    (tmp_path / "config.yaml").write_text(want.to_yaml())
    contray.train("simclr", {"train.epochs": 3, "data.renderings": 2})
    contray.train("simclr", {"train": {"epochs": 3}, "data": {"renderings": 2}})
    contray.train("simclr", {"train.epochs": 3}, data={"renderings": 2})
    contray.train(overrides={"train.epochs": "3"}, data={"renderings": 2}, preset="digits")
    contray.train(want)
    contray.train(want.replace({"train.epochs": 4}), train={"epochs": 3})
    contray.train(tmp_path / "config.yaml")
    assert launched == [want] * 7


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: contray.train(3), "^train: got int; give a method's name"),  # pyright: ignore[reportArgumentType, reportCallIssue]
        (lambda: contray.train("simclr", "photos/"), r"^overrides: got 'photos/', must be a mapping .*\{'data.source': 'photos/'\}"),  # pyright: ignore[reportArgumentType, reportCallIssue]
        (lambda: contray.train("simclr", seeds=0), "^seeds: got 0"),
        (lambda: contray.train("simclr", seeds="2"), "^seeds: got '2', must be a whole number"),  # pyright: ignore
        (lambda: contray.train("simclr", {"data.source": "x/"}, budget=0), "^budget: got 0, must be a time"),
        (lambda: contray.train(RunConfig.make(), preset="cifar"), "^preset: cifar goes with a method's name"),
        (lambda: contray.train("simclr", data={"sorce": "x"}), "^data.sorce: unknown key; did you mean data.source"),
        (lambda: contray.load(3), "^run: got int; give a run's id or name"),  # pyright: ignore[reportArgumentType]
        (lambda: contray.load(Path("nowhere")), "^run: there is no nowhere; give"),
        (lambda: contray.evaluate("knn"), "^name what to evaluate"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_a_run_is_named_by_what_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("contray_runs", "mine")
    folder.mkdir(parents=True)
    known = {"run_id": ID, "uri": "sqlite:////elsewhere.db", "finished": True, "synced": True}
    sealed.write(Storage(str(folder)), "run.json", known)
    here = Named(ID, str(folder), known["uri"])
    assert named(ID) == Named(ID)
    for each in (folder, str(folder), "mine", result(folder)):
        assert named(each) == here
    assert named(result("gone")) == Named(ID), "its encoder is in MLflow still"
    (tmp_path / "step-3.pt").touch()
    assert named("step-3.pt") == Named(checkpoint="step-3.pt")


# ---------------------------------------------------------------- what comes back


def test_a_result_is_a_table_wherever_it_is_shown() -> None:
    one = result()
    assert repr(one) == str(one)
    for shown in (str(one), one._repr_html_()):
        for word in ("top-1 on 400 test images", "trained encoder", "50.0 ± 2.5", "+25.0", "trained 9 steps in 8 s"):
            assert word in shown
    assert "<table" in one._repr_html_()
    assert "stopped at step 9" in str(result(finished=False))
    seeds = Results([one, result(name="simclr-s1", metrics={**METRICS, "knn_top1": 0.7})])
    assert "60.0 ± 14.1" in str(seeds)
    assert "the same command goes on" in str(Results([one, result(finished=False)]))


def test_measurements_are_numbers_that_print_as_tables_and_show_their_pictures(tmp_path: Path) -> None:
    picture = tmp_path / "similarities.png"
    picture.write_bytes(b"\x89PNG")
    measured = Measured({"knn_top1": 0.5, "random_knn_top1": 0.25, "test_images": 400}, (picture,))
    assert measured["knn_top1"] == 0.5
    assert "50.0" in repr(measured)
    assert str(picture) in repr(measured)
    assert 'src="data:image/png;base64,iVBORw=="' in measured._repr_html_()


def test_a_picture_is_its_numbers_and_shows_itself(tmp_path: Path) -> None:
    file = tmp_path / "map.png"
    file.write_bytes(b"\x89PNG")
    picture = Picture(file, {"jaccard": 0.5, "random_jaccard": 0.25})
    assert dict(picture) == picture.metrics == {"jaccard": 0.5, "random_jaccard": 0.25}
    assert picture._repr_png_() == b"\x89PNG"
    assert repr(picture) == f"{file}\njaccard 0.500, untrained 0.250"


def test_reprs_are_short() -> None:
    assert repr(RunConfig.make("simclr")) == "RunConfig(simclr digits)"
    shown = repr(RunConfig.make("moco", {"train.epochs": 3, "data.source": "photos/"}, preset="cifar"))
    assert shown == "RunConfig(moco cifar, data.source='photos/', train.epochs=3)"


# ---------------------------------------------------------------- progress


def test_a_log_file_gets_a_line_now_and_then_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [100.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", said)
    with progress.TrainingBar("r") as bar:
        for step in range(1, 101):
            bar.show({"step": step, "total": 100, "loss": 1.0})
            now[0] += 1
    lines = said.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["r: step 2/100", "r: step 8/100", "r: step 39/100", "r: step 70/100"]
    assert lines[1] == "r: step 8/100, loss 1.000, 1 min 32 s to go"


def test_what_is_over_soon_says_nothing_in_a_log_file(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.TrainingBar("knn", patience=5) as bar:
        bar.show({"step": 64, "total": 128, "unit": "image", "phase": "features of the trained encoder"})
    assert capsys.readouterr().err == ""


def test_a_notebook_keeps_one_bar_in_its_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display  # pyright: ignore[reportMissingImports]

    states: list[str] = []

    class Handle:
        def update(self, page: Any) -> None:
            states[0] = page._repr_html_()

    def display(page: Any, display_id: bool) -> Handle:
        states.append(page._repr_html_())
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(progress, "PAGE_SECONDS", 0)
    with progress.TrainingBar("<r>") as bar:
        for step in range(1, 51):
            bar.show({"step": step, "total": 50, "loss": 1.0})
    assert len(states) == 1
    assert 'value="1.000"' in states[0]
    assert "&lt;r&gt;" in states[0]
    assert "step 50/50, loss 1.000, 0 s" in states[0]


def test_images_of_a_result_are_rows(tmp_path: Path) -> None:
    from contray import model
    from contray.model.encoder import Encoder, export

    config = RunConfig.make("simclr", {"backbone.width": 4, "views.view.size": 16, "eval.batch_size": 2})
    export(config, model.build(config, 10).eval(), tmp_path / "encoder")
    encoder = contray.load(tmp_path / "encoder")
    assert isinstance(encoder, Encoder)
    assert repr(encoder) == "Encoder(simclr digits, resnet_small: 32 features, sees 16 x 16 px)"
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    whole = encoder(images)
    assert whole.shape == (5, 32)
    np.testing.assert_allclose(encoder(image for image in images), whole)
    np.testing.assert_allclose(encoder(images[3]), whole[3:4], rtol=1e-4, atol=1e-5)


def test_a_table_as_text_leaves_nothing_else_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    import rich.console

    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *args: pytest.fail("an output of its own"))
    assert "trained encoder" in str(result())
