"""Names of classes and files hold anything; pictures and tables show them all the same."""

from __future__ import annotations

import dataclasses
import importlib
import io
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from contray import RunConfig, data, model
from contray.cli import main, output
from contray.drawing import NAME, SHORT, draw_runs, draw_similarities, drawable
from contray.evaluation.common.diagnosis import Diagnosis, similarities
from contray.evaluation.common.diagnosis import draw as draw_geometry
from contray.pictures import preview
from contray.pictures.subject import Subject
from contray.tables import Table

CPU = torch.device("cpu")
NAMES = (
    "caf\udce9", "$x$ costs $", "$\\frac{", "_hidden", "<b>&amp;", "two\nlines\tand more", "x" * 200, "שלום", "中文", "[red]bold[/]", "a\u202eb", "\x00\x1b[1m",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        ("caf\udce9", "caf\\xe9"),  # Latin-1 bytes of a folder, as Python keeps them
        ("a\ud800", "a\\ud800"),
        ("$x$", r"\$x\$"),
        ("_x", " _x"),
        ("two\nlines ", "two lines"),
        ("中", "\\u4e2d"),
        ("😀\u202e", "😀\\u202e"),
        ("x" * 59 + "y" * 59, "x" * 29 + "…" + "y" * 30),
        ("", ""),
    ],
)
def test_names_are_one_line_without_mathematics(name: str, expected: str) -> None:
    assert drawable(name) == expected


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.text(max_size=90), st.sampled_from((SHORT, NAME)))
def test_any_text_is_drawn_as_it_stands(name: str, most: int) -> None:
    """Matplotlib warns of glyphs that it lacks, and fails at mathematics that is none: both are errors here."""
    shown = drawable(name, most)
    assert "\n" not in shown
    assert len(shown.replace(r"\$", "$").lstrip(" ")) <= most
    figure = Figure(figsize=(1, 1))
    text = figure.text(0, 0, shown)
    FigureCanvasAgg(figure).draw()
    assert text._preprocess_math(shown) == (shown.replace(r"\$", "$"), False)


def test_different_names_that_the_font_lacks_look_different() -> None:
    assert len({drawable(name) for name in ("中", "文", "\udce9", "\udcea")}) == 4


@pytest.fixture(scope="module")
def named() -> Subject:
    """Digits whose classes are called otherwise, and their set too."""
    config = RunConfig.make(
        "simclr",
        {
            "data.size": 16, "data.renderings": 1, "data.workers": 0, "train.precision": "fp32", "views.view.size": 16, "backbone.width": 4,
            "method.projector_hidden": 16, "method.projector_dim": 8,
        },
        preset="digits",
    )  # fmt: skip
    source = data.open_source(config.data)
    assert source.test is not None
    for split in (source.train, source.test):
        split.classes = list(NAMES[:10])
    source = dataclasses.replace(source, name="caf\udce9 $a_b$")
    return Subject(config, source, model.build(config, len(source.train)).eval(), CPU, images=40)


@pytest.mark.parametrize("kind", ["neighbours", "map"])
def test_pictures_of_any_classes(kind: str, named: Subject, tmp_path: Path) -> None:
    importlib.import_module(f"contray.pictures.{kind}").draw(named, tmp_path / "p.png")
    assert imread(tmp_path / "p.png").size


def test_the_legend_of_a_map_has_every_class(named: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contray.pictures import map as picture

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *given, **named: figures.append(figure))
    picture.draw(dataclasses.replace(named, images=200), tmp_path / "p.png")
    legend = figures[0].axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [drawable(name) for name in NAMES[:10]]
    assert "200 of 359 test images" in figures[0].axes[0].get_title(loc="left")


def test_previews_and_curves_of_any_name(named: Subject, tmp_path: Path) -> None:
    preview.draw(named.source.train, named.config.views, strength=1.0, seed=0, samples=3, out=tmp_path / "v.png")
    draw_runs([(name, [("0", [(0, 1.0), (1, 0.5)])]) for name in NAMES], "loss", tmp_path / "c.png")
    pair = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    draw_similarities({"trained": (similarities(pair, pair + 0.1), {"rank": "2"})}, NAMES[1], tmp_path / "s.png")
    assert all(imread(tmp_path / name).size for name in ("v.png", "c.png", "s.png"))


def test_tables_show_brackets_and_bytes_of_names(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("t", "name")
    table.add("[red]x[/] :smile:")
    output.show(table, "left out: [bold]/a.png")
    said = capsys.readouterr().out
    assert "[red]x[/] :smile:" in said
    assert "left out: [bold]/a.png" in said
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    assert main(["--version"]) == 0
    output.show("left out: caf\udce9.png")
    sys.stdout.flush()
    assert b"left out: caf\\udce9.png" in written.getvalue()


def test_the_picture_of_similarities_shows_the_numbers_that_are_printed(
    named: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contray import drawing as curves

    shown: dict[str, dict[str, str]] = {}

    def kept(panels, title, out) -> None:
        shown.update({name: numbers for name, (_, numbers) in panels.items()})
        shown["title"] = title

    monkeypatch.setattr(curves, "draw_similarities", kept)
    diagnosis = Diagnosis(named.config, named.source, CPU)
    draw_geometry(diagnosis, named.method, named.method, tmp_path / "s.png")
    printed = diagnosis.measure(named.method)
    assert shown["trained encoder"]["uniformity"] == f"{printed['uniformity']:.3f}"
    assert shown["trained encoder"]["alignment"] == f"{printed['alignment']:.3f}"
    assert shown["trained encoder"]["rank"].startswith(f"{printed['rankme']:.1f} of ")
    assert shown["trained, what the loss compares"]["rank"].startswith(f"{printed['embedding_rankme']:.1f} of ")
    assert "512 samples, two views of each; uniformity and rank of 1,438 images" in shown["title"]
