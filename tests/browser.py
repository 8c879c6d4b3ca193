"""MLflow's pages as a person sees them, in a headless Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    *("--no-sandbox", "--disable-gpu"),  # containers run as root and have no screen
    *("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium() -> str | None:
    """The browser to use: CONTRAY_CHROMIUM, else what is installed."""
    return os.environ.get("CONTRAY_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Any]:
    """A page in a browser of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield opened.new_page(viewport={"width": 2000, "height": 1200})
        finally:
            opened.close()


def page_text(page: Any, url: str, wait_for: Sequence[str], screenshot: Path | None = None, seconds: float = 60.0) -> str:
    """The text of the page at `url` once all of `wait_for` is on it; AssertionError names what is missing and shows the page.

    Texts that an open plot draws count; what lies in a closed tab or outside a table's scrolled part may not.
    """
    from playwright.sync_api import TimeoutError as PageTimeout

    shows = "texts => texts.every(text => document.body.innerText.includes(text))"
    page.goto("about:blank")  # a link into the page that is open would not load it anew
    page.goto(url)
    try:
        page.wait_for_function(shows, arg=list(wait_for), timeout=seconds * 1000)
    except PageTimeout:
        text = page.inner_text("body")
        missing = [wanted for wanted in wait_for if wanted not in text]
        raise AssertionError(f"{url} shows no {missing} after {seconds:g} s but:\n{text}") from None
    finally:
        if screenshot:
            page.screenshot(path=screenshot)
    return page.inner_text("body")
