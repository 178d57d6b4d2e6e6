"""A page in a browser without a network, and everything that it says or asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SCREENSHOTS = Path(__file__).parent / "screenshots"
"""Artefacts, for people to look at: written by the tests, kept out of git."""

MOST_WAITS = 300
WIDE, PHONE = (1200, 900), (390, 844)


class Pages:
    """Pages in contexts of their own. ``problems``: errors, warnings, dialogs and requests, as they were noticed."""

    def __init__(self, browser: Any, screenshots: Path) -> None:
        self.problems: list[str] = []
        self._browser = browser
        self._contexts: list[Any] = []
        self._screenshots = screenshots

    def open(self, file: Path, size: tuple[int, int] = WIDE, scheme: str = "light", *, script: bool = True) -> Any:
        """The file as a page, loaded. Requests for anything else are noted and blocked."""
        context = self._browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        self._contexts.append(context)
        page = context.new_page()
        address = file.absolute().as_uri()
        page.route("**/*", lambda route: self._pass(route, address))
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("dialog", self._note_dialog)
        page.on("popup", lambda popup: self.problems.append(f"popup: {popup.url}"))
        page.goto(address)
        return page

    def keep(self, page: Any, name: str) -> None:
        """A screenshot of the whole page, as an artefact."""
        self._screenshots.mkdir(exist_ok=True)
        page.screenshot(path=self._screenshots / f"{name}.png", full_page=True)

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def _pass(self, route: Any, address: str) -> None:
        url = route.request.url
        if url.partition("#")[0] == address or url.startswith("blob:"):  # a download that the page itself made
            route.continue_()
        else:
            self.problems.append(f"request: {url[:200]}")
            route.abort()

    def _note_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text[:300]}")

    def _note_dialog(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()


def wait_for_charts(page: Any) -> int:
    """Until the page, being idle, has drawn every chart; returns how many."""
    for _ in range(MOST_WAITS):  # Playwright's own waiting needs `eval`, which the page's policy forbids
        if page.evaluate("[...document.querySelectorAll('.chart')].every((chart) => chart.dataset.drawn)"):
            return int(page.locator(".chart:has(.main-svg)").count())
        page.wait_for_timeout(100)
    raise AssertionError(f"after {MOST_WAITS / 10:.0f} s there are charts that are not drawn")


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
