"""The pages that servers of ours make, in a browser: the live page of a run, and the chat."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from sombrero.chat import open_chat
from sombrero.config import RunConfig
from sombrero.stages.trials import TRIALS, read_trials, write_trials
from tests.browser.watching import MOST_WAITS, PHONE, WIDE, Pages, overflow
from tests.commands import Tiny, finished_run
from tests.watch.conftest import Server

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return finished_run(tmp_path_factory.mktemp("live"))


@pytest.fixture
def run(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.run, tmp_path / "mine", ignore=shutil.ignore_patterns("model", "states")))


@pytest.fixture
def server(run: Path) -> Iterator[Server]:
    found = Server(run)
    yield found
    found.stop()


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")])
def test_the_live_page_grows_with_the_run(
    server: Server, pages: Pages, run: Path, size: tuple[int, int], scheme: str
) -> None:
    page = pages.visit(f"{server.address}/", size, scheme)
    scores = read_trials(run / TRIALS)
    rows = page.locator("#trials tr")
    page.locator("#trials tr").nth(len(scores) - 1).wait_for(timeout=60_000)
    failed = replace(scores[0], number=len(scores), state="failed", refusals=None, kl=None, error=HOSTILE)
    write_trials((*scores, failed), run / TRIALS)
    rows.nth(len(scores)).wait_for(timeout=60_000)
    assert HOSTILE in rows.first.inner_text()  # text, not markup: the page's problems are none either
    assert page.locator("#plot circle:not(.best)").count() == sum(score.kl is not None for score in scores)
    assert overflow(page) == 0
    serious = [
        found["id"] for found in Axe().run(page).response["violations"] if found["impact"] in ("serious", "critical")
    ]
    assert serious == []
    pages.keep(page, f"watch-{scheme}")


def test_a_hostile_run_folder_stays_text(server: Server, pages: Pages, run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    facts["config"]["model"]["source"] = HOSTILE
    facts["stages"][HOSTILE] = {"hash": "x", "seconds": 1.0, "finished": "2026"}
    (run / "run.json").write_text(json.dumps(facts))
    page = pages.visit(f"{server.address}/")
    page.locator("#stages tr").first.wait_for(timeout=60_000)
    assert HOSTILE in page.locator("#model").inner_text() and HOSTILE in page.locator("#stages").inner_text()
    assert page.locator("body script, img").count() == 0


def wait_for_status(page: Any, expected: str) -> None:
    for _ in range(MOST_WAITS):
        if expected in page.locator("#status textarea").input_value():
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"no {expected!r} in {page.locator('#status textarea').input_value()!r}")


def test_the_chat_answers_beside_each_other_and_obeys(chromium: object, pages: Pages, tiny: Tiny) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed (pip install 'sombrero[gradio]', without the lock)")
    from sombrero.chat.web import make_page, start

    served = make_page(open_chat(str(tiny.run), RunConfig()), max_new_tokens=6)
    try:
        page = pages.visit(start(served, 0))
        line = page.locator("#line textarea")
        line.fill(HOSTILE)
        line.press("Enter")
        for name in ("base", "edited"):
            page.locator(f"#{name} [data-testid=bot]").first.wait_for(timeout=60_000)
            assert HOSTILE in page.locator(f"#{name} [data-testid=user]").first.inner_text()  # text, and no image
        line.fill("/strength 0")
        line.press("Enter")
        wait_for_status(page, "strength ×0")
        line.fill("/save somewhere")
        line.press("Enter")
        wait_for_status(page, "for the terminal")
        assert page.get_by_label("Share").count() == 0  # what is said stays here
        pages.keep(page, "chat-web")
    finally:
        served.close()
