"""A real browser for the tests of pages: they run where playwright and a Chromium are, and are skipped elsewhere.

`make test-viewer` brings playwright, and sets AIPO_TEST_VIEWER: what is missing is then an error. A Chromium is looked for in
AIPO_CHROMIUM and on PATH.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.apps.viewer.pages import Opened, open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def _chromium() -> str | None:
    if named := os.environ.get("AIPO_CHROMIUM"):
        return named
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    return next((path for path in found if path), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One headless Chromium for all tests of the session."""
    missing = pytest.fail if os.environ.get("AIPO_TEST_VIEWER") else pytest.skip
    try:
        from playwright import sync_api as playwright
    except ModuleNotFoundError:
        missing("playwright is not installed: make test-viewer")
    if (path := _chromium()) is None:
        missing("no Chromium on PATH; install one (Debian: apt-get install chromium), or set AIPO_CHROMIUM to it")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Opened]:
    """Opens pages; at the end none of them may have logged an error or asked for anything outside."""
    pages: list[Opened] = []

    class Opener:
        def __call__(self, where: str | Path, **options: object) -> Opened:
            pages.append(open_page(chromium, where, **options))
            return pages[-1]

    yield Opener()  # type: ignore[misc]
    for page in pages:
        page.close()
        assert page.errors == []
        assert page.foreign == []
