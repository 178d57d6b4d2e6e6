"""A headless Chromium for the tests here, and pages in it that watch what a report does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.watching import SCREENSHOTS, Pages

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; without one, or without Playwright, the tests are skipped, and the run's last lines say so."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install .[dev])")
    names = (os.environ.get("SOMBRERO_BROWSER", ""), *NAMES)
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium; install one (Debian: apt-get install chromium), or name it in SOMBRERO_BROWSER")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def pages(chromium: Any) -> Iterator[Pages]:
    """Opens pages. Whatever one of them asked of the network, or complained of, fails the test."""
    opened = Pages(chromium, SCREENSHOTS)
    yield opened
    opened.close()
    assert opened.problems == []


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run folders of these tests are written, once each."""
    return tmp_path_factory.mktemp("browser")
