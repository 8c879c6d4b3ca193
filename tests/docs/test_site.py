"""The site as it is built: strictly, with every link and anchor, complete, and without asking anything of another machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import contray
from contray import RunConfig
from contray.cli.main import COMMANDS
from contray.config.evaluations import evaluation_names
from contray.config.registry import builtin, load_method
from contray.evaluation.common.tables import GEOMETRY
from tests.docs.texts import DOCS, ROOT

FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    """ids of a page; (tag, attribute, where it leads) of all that leads somewhere; its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.ids.add(value)
            elif value and name in ("href", "src"):
                self.links.append((tag, name, value))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A warning fails it: links and anchors of the Markdown, pages that the navigation lacks, names that do not exist."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    lost = []
    for path, page in pages.items():
        for tag, _, link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].ids):
                lost.append((str(path.relative_to(site)), tag, link))
    assert not lost


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    outside = re.compile(r"(?:https?:)?//")
    for path, page in pages.items():
        for tag, name, link in page.links:
            if FETCHED.get(tag) == name and outside.match(link):
                raise AssertionError(f"{path.relative_to(site)} fetches {link}")
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )['\"]?(?:https?:)?//", style.read_text()), style


@pytest.mark.parametrize("name", builtin("method"))
def test_a_method_s_page_has_all_of_its_file(name: str, pages: dict[Path, Page], site: Path) -> None:
    page, file = pages[site / "methods" / f"{name}.html"], load_method(name)
    keys = [
        key
        for key in RunConfig.make(name, preset="paper").flat()
        if key.startswith("method.") and key not in ("method.name", "method.preset")
    ]
    for wanted in (
        file.paper.title,
        *file.presets,
        *keys,
        *file.metrics.values(),
        *(preset.about for preset in file.presets.values()),
        f"class {file.method.__name__}",
    ):
        assert wanted.replace("`", "") in page.text, wanted
    assert all(differs in page.text for differs in file.differs)
    assert {"what-it-logs", "views", "presets", "source"} <= page.ids


def test_numbers_of_a_method_stand_with_their_command(pages: dict[Path, Page], site: Path) -> None:
    text = pages[site / "methods" / "moco.html"].text
    assert "Measured here" in text
    assert "python tests/benchmarks/every_method.py --data digits" in text
    rows = re.findall(
        r"^\| moco \|(.*)\|$", (DOCS / "RESULTS.md").read_text().partition("CIFAR-10, 10,000 images")[0], re.MULTILINE
    )
    assert len(rows) == 2, "before and after recipes were held against their releases"
    assert all(cell.strip(" *") in text for row in rows for cell in row.split("|"))


def test_every_command_key_evaluation_and_name_has_its_place(pages: dict[Path, Page], site: Path) -> None:
    reference = site / "reference"
    assert all(f"contray-{name.replace(' ', '-')}" in pages[reference / "commands.html"].ids for name in COMMANDS)
    keys = [key for key in RunConfig.make("simclr").flat() if not key.startswith(("method.", "views."))]
    assert set(keys) <= pages[reference / "keys.html"].ids
    assert set(evaluation_names()) <= pages[reference / "evaluations.html"].ids
    assert {f"contray.{name}" for name in contray.__all__} <= pages[reference / "api.html"].ids
    assert all(
        key in pages[reference / "evaluations.html"].text
        for key in RunConfig.make().flat()
        if key.count(".") == 2 and key.startswith("eval.")
    )


def test_the_engine_s_metrics_are_explained(pages: dict[Path, Page], site: Path) -> None:
    text = pages[site / "reference" / "metrics.html"].text
    for name in (*GEOMETRY, "lr", "grad_norm", "images_per_second", "test_images_broken", "labelled_images"):
        assert name in text, name
