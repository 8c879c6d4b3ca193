"""The page of a run: what it says is on record or was computed, nothing of a name is markup, and it needs nothing but itself."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contray import RunConfig, data, track
from contray.cli import main, train
from contray.errors import UserError
from contray.reporting import html, report
from contray.reporting.confusion import Confusion, luminance
from contray.reporting.page import TEMPLATE
from contray.reporting.record import find
from contray.training.launch import launch
from tests.browser import FLAGS, chromium
from tests.stores import fresh

EVIL = "<img src=x onerror=alert(1)>"
SECTIONS = [
    "verdict", "results", "curves", "views", "map", "neighbours", "confusion", "geometry", "data", "config", "where-it-comes-from", "times",
    "how-to-load-it",
]  # fmt: skip
TINY = {
    "data.workers": 0, "views.view.size": 16, "backbone.width": 4, "method.projector_hidden": 16, "method.projector_dim": 8,
    "train.batch_size": 16, "train.steps": 4, "train.precision": "fp32", "eval.linear.epochs": 2, "eval.holdout": 0.2, "scale.workers": "0 0",
    "scale.cpus_per_worker": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A store with one trained run of two classes, one with a name that is markup; one of its images is broken."""

    folder: Path
    uri: str
    run_id: str
    name: str

    @property
    def tracked(self) -> track.TrackedRun:
        return track.attach(self.uri, self.run_id)

    def page(self, *words: str, **options) -> str:
        out = report(*words, uri=options.pop("uri", self.uri), out=self.folder / "out" / "page.html", **options)
        return out.read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("report")
    fresh(folder)
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 12)):
        for number, name in enumerate((EVIL, "a&b")):
            place = folder / "photos" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (20, 24, 3)) + np.array([0, 120 * number, 60])
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    (folder / "photos" / "test" / "a&b" / "0.png").write_bytes(b"no picture")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    keys = {
        **TINY,
        "data.source": str(folder / "photos"),
        "scale.storage": str(folder / "runs"),
        "track.uri": uri,
        "data.max_broken": 0.5,
    }
    result = launch(RunConfig.make("simclr", keys, preset="digits"), quiet=True)
    track.attach(uri, result.run_id).set_tags(
        {"contray.verdict": f"Worth it {EVIL}.", "contray.command": f"contray train {EVIL}"}
    )
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Place(folder, uri, result.run_id, result.name)


@pytest.fixture
def place(trained: Place, tmp_path: Path) -> Place:
    """The store as the run left it, in a file of its own."""
    shutil.copy(trained.folder / "mlflow.db", tmp_path / "mlflow.db")
    return replace(trained, uri=f"sqlite:///{tmp_path / 'mlflow.db'}")


class Read(HTMLParser):
    """What of a page is markup: tags with their attributes, and the text of each section."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self._now = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._now = dict(attrs)["id"] or ""
            self.sections[self._now] = ""

    def handle_data(self, data: str) -> None:
        if self._now:
            self.sections[self._now] += data


def test_a_run_by_its_name_has_all_on_its_page(place: Place) -> None:
    page = place.page(place.name)
    read = Read(page)
    assert list(read.sections) == SECTIONS
    metrics = place.tracked.results()[0]
    assert f"Worth it {EVIL}." in read.sections["verdict"]
    for text in (
        f"{100 * metrics['linear_top1']:.1f} ±",
        "top-1 on 23 test images (1 more could not be read)",
        "gain over untrained encoder",
    ):
        assert text in read.sections["results"]
    assert read.sections["curves"].count("optimiser steps") >= 3
    assert f"{metrics['rankme']:.3f}" in read.sections["geometry"]
    assert f"{metrics['random_rankme']:.3f}" in read.sections["geometry"]
    for text in ("training images60", "test images24", "24 x 20 px", "a&b", EVIL, "1 met here"):
        assert text in read.sections["data"]
    assert "train.steps4" in read.sections["config"].replace("\n", "")
    assert f"contray train {EVIL}" in read.sections["where-it-comes-from"]
    assert f'contray.load("{place.run_id}"' in read.sections["how-to-load-it"]
    assert f"contray embed photos/ --run {place.run_id}" in read.sections["how-to-load-it"]
    images = [attributes for tag, attributes in read.tags if tag == "img"]
    assert len(images) == 3
    assert all(each["alt"] and (each["src"] or "").startswith("data:image/png;base64,") for each in images)
    assert "report.html" in place.tracked.kept()


def test_nothing_of_a_name_is_markup_and_nothing_is_fetched(place: Place) -> None:
    read = Read(place.page(place.run_id))
    assert not [attributes for _, attributes in read.tags if "onerror" in attributes]
    assert [tag for tag, _ in read.tags].count("script") == 1
    for _, attributes in read.tags:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes


def test_what_is_missing_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished run without labels whose pictures and config are gone."""
    place.tracked.finish("KILLED")
    place.tracked.set_tags({"contray.verdict": "", "contray.trouble": "the disk is full"})
    opened = data.open_source

    def unlabelled(config: RunConfig) -> data.Source:
        source = opened(config)
        source.train.labels = None
        return replace(source, test=None)

    monkeypatch.setattr(data, "open_source", unlabelled)
    monkeypatch.setattr("contray.reporting.record._fetch", lambda talk, run, made: None)
    read = Read(place.page(place.run_id))
    assert list(read.sections) == SECTIONS
    for section, text in {
        "verdict": "No verdict", "views": "No picture of the views", "confusion": "the images have no labels", "data": "no labels",
    }.items():  # fmt: skip
        assert text in read.sections[section]
    assert "has it as KILLED at step 4" in read.sections["verdict"]
    assert "the disk is full" in read.sections["verdict"]


def test_the_test_set_stays_shut_before_the_end(place: Place) -> None:
    place.tracked.finish("KILLED")
    read = Read(place.page(place.run_id))
    assert "24, not looked at before the end" in read.sections["data"]
    assert "held-out training images right" in " ".join(read.sections["confusion"].split())


def test_without_mlflow_the_folder_tells(place: Place, tmp_path: Path) -> None:
    folder = str(place.folder / "runs" / place.name)
    nobody = f"sqlite:///{tmp_path / 'gone.db'}"
    read = Read(place.page(folder, uri=nobody))
    assert "MLflow could not be asked" in read.sections["verdict"]
    assert "trained encoder" in read.sections["results"]
    assert "No curve is on record" in read.sections["curves"]
    assert "read_checkpoint" in read.sections["how-to-load-it"]
    with pytest.raises(UserError, match=r"there is no .*gone\.db"):
        report(place.name, uri=nobody, out=tmp_path / "r.html")
    with pytest.raises(UserError, match="no run 'nobody'"):
        report("nobody", uri=place.uri, out=tmp_path / "r.html")
    with pytest.raises(UserError, match=r"must end in \.html"):
        report(place.name, uri=place.uri, out=tmp_path / "r.pdf")
    with pytest.raises(UserError, match="name what to report on"):
        report(out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match=r"--out: .*folder\.html cannot be written \(Is a directory\)"):
        report(checkpoint=folder, out=tmp_path / "folder.html")


def test_what_is_damaged_is_left_out_and_said(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(place.folder / "runs" / place.name, folder)
    for name in ("verdict.json", "run.json"):
        (folder / name).write_text("{")
    record = find(str(folder), "", place.uri)
    assert record.name, "the copy of run.json tells which run it is"
    record = find("", str(folder), "")
    assert not record.metrics
    assert "verdict.json is damaged (no JSON): what the run measured at its end is left out" in record.notes[0]
    (folder / "config.yaml").write_bytes(b"\xff\xfe")
    assert find("", str(folder), "").config


def test_without_its_data_a_run_still_has_a_page(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(config: RunConfig) -> data.Source:
        raise UserError("data.source: there is no folder photos")

    monkeypatch.setattr(data, "open_source", gone)
    read = Read(place.page(place.run_id))
    assert "there is no folder photos" in read.sections["encoder"]
    assert "trained encoder" in read.sections["results"]


@pytest.mark.parametrize(("kind", "section"), [("seeds", "seeds"), ("sweep", "trials")])
def test_a_group_has_a_table_and_one_run_in_full(place: Place, kind: str, section: str) -> None:
    parent = track.begin(
        place.uri, "contray", "the group", params={}, tags={"contray.kind": kind, "contray.verdict": "All agree."}
    )
    params = {**track.client(place.uri).get_run(place.run_id).data.params, "seed": 1}
    other = track.begin(place.uri, "contray", "other-s1", params=params, tags={"contray.kind": "seed"}, parent_id=parent.run_id)
    other.log_metrics({"linear_top1": 0.25, "linear_val_top1": 0.0}, 4)
    other.set_tags({"contray.group": place.tracked.results()[1]["contray.group"]})
    other.finish("FINISHED")
    place.tracked.set_tags({"mlflow.parentRunId": parent.run_id, "contray.winner": "true"})
    read = Read(place.page("the group"))
    assert "All agree." in read.sections["verdict"]
    assert "±" in read.sections[section]
    assert place.run_id in read.sections["how-to-load-it"]
    assert "report.html" in parent.kept()
    own = place.tracked.results()[0]["linear_top1"]
    mean = f"{50 * (own + 0.25):.1f} ±"
    assert (mean in place.page("the group").partition("<section")[0]) == (kind == "seeds"), "what stands large is of all seeds"
    assert f"Of {place.name}, " in read.sections["results"]


def test_each_number_is_said_to_be_of_its_own_images(place: Place) -> None:
    """What `contray eval --data.source` keeps, dense tasks of which one lacks a row, and what is no number."""
    place.tracked.log_metrics(
        {"cifar10.linear_top1": 0.42, "cifar10.random_linear_top1": 0.3, "cifar10.test_images": 10000,
         "detection_fpn_ap": 0.2, "scratch_detection_fpn_ap": 0.1, "segmentation_fcn_miou": 0.3, "rankme": float("nan")}, 4,
    )  # fmt: skip
    results = Read(place.page(place.run_id)).sections["results"]
    further = results[results.index("on cifar10's test images (10,000 images)") :]
    assert re.search(r"trained encoder\s*42\.0\s*untrained encoder\s*30\.0", further)
    assert re.search(r"untrained\s*10\.0\s*-", results)
    assert "standard error over these images, of one run" in results
    assert "nan" not in place.page(place.run_id).partition("<section")[0]


def test_the_command_says_where_the_page_is(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contray.reporting.page.written", lambda record, show: "<p>page</p>")
    out = place.folder / "deep" / "moco.html"
    assert main(["report", place.name, "--out", str(out), "--track.uri", place.uri]) == 0
    assert f"wrote {out}: file://" in capsys.readouterr().out
    assert out.read_text() == "<p>page</p>"
    assert main(["report", "nobody", "--track.uri", place.uri]) == 2


def test_training_leaves_it_in_the_runs_folder_and_never_fails_for_it(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("contray.reporting.page.written", lambda record, show: f"<p>{record.name}</p>")
    config, folder = RunConfig.make("simclr", {"track.uri": place.uri}, preset="digits"), place.folder / "runs" / place.name
    train._report(str(folder), config, train.Options(quiet=True, report=True))
    assert (folder / "report.html").read_text() == f"<p>{place.name}</p>"
    assert f"report      {folder / 'report.html'}" in capsys.readouterr().out
    train._report(str(tmp_path / "nowhere"), config, train.Options(quiet=True, report=True))
    assert "the report was not written (there is no run" in capsys.readouterr().err


# ---------------------------------------------------------------- pieces


def test_confusion_counts_what_is_taken_for_what() -> None:
    true, told = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 2])
    found = Confusion.of(true, told, ["cat", "dog", "elk", "none"], 20, "test images")
    assert found.counts.tolist() == [[1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert found.recall[:3].tolist() == [1 / 3, 0.5, 1.0]
    assert found.pairs() == [("cat", "dog", 2, 3), ("dog", "cat", 1, 2)]
    assert found.top1 == 0.5
    many = Confusion.of(true, told, [f"class {i}" for i in range(30)], 20, "test images")
    assert "confusion matrix" not in "".join(many.parts())
    assert "2 of 3" in "".join(many.parts())


def test_curves_and_ticks() -> None:
    assert html.nice(0.0, 1.0) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert html.nice(3.0, 3.0)[0] < 3.0 < html.nice(3.0, 3.0)[-1]
    points = [(step, float(step)) for step in range(5000)]
    drawn = html.curve("loss <x>", [*points, (9, float("nan"))])
    assert "loss &lt;x&gt;: 0 at step 0, 4999 at step 4,999" in drawn
    assert drawn.count("L") < 310
    assert "not a number at step 9" in drawn
    assert html.curve("loss", [(0, float("nan"))]).count("<") == 2, "said, and nothing drawn"
    lone = html.curve("k-NN", [(20, 0.0)], percent=True, until=40)
    assert ">0</text>" in lone
    assert ">40</text>" in lone
    assert not re.search(r">-[\d.]+</text>", lone), "a share is not below zero"


def test_text_can_be_read_in_both_schemes() -> None:
    """Contrast of at least 4.5 (WCAG AA) between each ink and what it stands on."""
    schemes = re.findall(r":root \{([^}]*)\}", TEMPLATE.read_text())
    assert len(schemes) == 3
    pairs = [("ink", "back"), ("ink", "card"), ("soft", "back"), ("soft", "card"), ("accent", "back"), ("accent", "card"),
             ("warn", "warn-back"), ("ink", "good-back")]  # fmt: skip
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w+)", scheme))
        for ink, back in pairs:
            dark, light = sorted(_luminance(colours[name]) for name in (ink, back))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, back, colours)


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * each for each in colour[1:])
    return luminance([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt-get install chromium, or name one in CONTRAY_CHROMIUM")
def test_the_page_in_a_browser(place: Place, browser) -> None:
    place.page(place.run_id)
    address = (place.folder / "out" / "page.html").as_uri()
    for width, scheme in ((1400, "light"), (400, "dark")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said, asked = [], []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(address)
        assert [section.get_attribute("id") for section in page.query_selector_all("section")] == SECTIONS
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        for link in page.query_selector_all("nav a"):
            assert page.query_selector(link.get_attribute("href")) is not None
        page.click(".copy >> nth=-1")
        page.wait_for_selector("text=Copied")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
        assert dark == (scheme == "dark")
        assert not said
        assert not [each for each in asked if not each.startswith(("data:", address))]
        page.close()
