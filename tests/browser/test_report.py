"""The report in a real browser: quiet, offline, alive by mouse and keyboard, readable on a phone and on paper."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from sombrero.reports import write_report
from sombrero.reports.comparison_page import render_comparison
from sombrero.reports.page import SECTIONS
from tests.browser.watching import PHONE, WIDE, Pages, overflow, wait_for_charts
from tests.reports.run_folders import write_run
from tests.reports.whole_runs import comparison, write_whole_run

N_LAYERS, N_TRIALS = 80, 500
CHARTS = {"manifold", "sizes", "layers", "controls", "trials", "fronts", "differences", "leak"}
MOST_DOWNLOADS = 4
DATA = CHARTS | {"map", "cosines", "importance"}


@pytest.fixture(scope="module")
def report(runs: Path) -> Path:
    """A large run with everything in it."""
    return write_report(write_whole_run(runs / "large", n_layers=N_LAYERS, n_trials=N_TRIALS))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_it_opens_quietly_and_fits(pages: Pages, report: Path, size: tuple[int, int], scheme: str) -> None:
    page = pages.open(report, size, scheme)
    assert wait_for_charts(page) == len(CHARTS)
    assert overflow(page) == 0
    assert page.locator("section h2").count() == page.locator("nav a").count() == len(SECTIONS)
    pages.keep(page, f"report-{scheme}-{size[0]}")


def test_the_slider_moves_through_the_layers(pages: Pages, report: Path) -> None:
    page = pages.open(report)
    slider, told = page.locator("#map-slider"), page.locator("#map-state")
    before, fills = told.inner_text(), cell_fills(page)
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert told.inner_text() == "state 9, after layer 8" != before
    assert slider.get_attribute("aria-valuetext") == told.inner_text()
    assert cell_fills(page) != fills
    page.keyboard.press("End")
    assert told.inner_text() == f"state {N_LAYERS}, after layer {N_LAYERS - 1}"
    assert page.locator("#map-strip [aria-pressed=true]").count() == 1
    page.locator("#map-strip button").nth(3).click()
    assert told.inner_text() == "state 3, after layer 2" and slider.input_value() == "3"


def test_the_manifold_follows_its_slider_before_and_after_it_is_drawn(pages: Pages, report: Path) -> None:
    page = pages.open(report)
    data = json.loads(page.locator("#report-data").text_content())["manifold"]["states"]
    for press, index in (("Home", 0), ("End", N_LAYERS)):
        page.locator("#manifold-slider").focus()
        page.keyboard.press(press)
        assert page.locator("#manifold-state").inner_text() == data[index]["name"]
        page.locator("#chart-manifold").scroll_into_view_if_needed()
        wait_for_charts(page)
        traces = page.evaluate("document.getElementById('chart-manifold').data.map((trace) => [trace.name, trace.x])")
        drawn = dict(traces)
        names = ("harmless prompt", "harmful prompt", "unit", "harmless, edited", "harmful, edited")
        for name, x in zip(names, data[index]["x"][:5], strict=True):
            assert drawn[name] == x, (name, index)


def test_a_unit_tells_of_itself_by_mouse_and_by_keyboard(pages: Pages, report: Path) -> None:
    page = pages.open(report)
    units, tip = page.locator(".unit"), page.locator("#map-tip")
    assert tip.is_hidden()
    units.nth(6).hover()
    assert "Unit 6 (row 2, column 3)" in tip.inner_text()
    assert "salience rank" in tip.inner_text() and "categories:" in tip.inner_text()
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    page.locator("input[name=plane]").first.focus()
    page.keyboard.press("Tab")  # one stop for the whole map; arrows move within it
    assert "Unit 0 " in tip.inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert "Unit 5 " in tip.inner_text()
    assert units.nth(5).get_attribute("aria-label").startswith("Unit 5 (row 2, column 2): ")
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_the_planes_are_chosen_by_keyboard(pages: Pages, report: Path) -> None:
    page = pages.open(report)
    page.locator("input[name=plane]").first.focus()
    seen = [cell_fills(page)]
    for _ in range(page.locator("input[name=plane]").count() - 1):
        page.keyboard.press("ArrowRight")
        seen.append(cell_fills(page))
    assert len({tuple(fills) for fills in seen}) == len(seen) == 5
    assert page.locator("#map-keys li").count() >= 2 and page.locator("#map-keys").is_visible()


def test_colours_are_the_systems_until_the_reader_chooses(pages: Pages, report: Path) -> None:
    page = pages.open(report, scheme="dark")
    button = page.locator("#theme")
    dark = background(page)
    assert button.inner_text() == "Light colours"
    button.click()
    assert background(page) != dark and button.inner_text() == "Dark colours"
    page.reload()
    assert background(page) != dark
    button.click()
    assert background(page) == dark


def test_the_numbers_of_every_figure_are_one_click_away(pages: Pages, report: Path) -> None:
    page = pages.open(report)
    names = page.eval_on_selector_all("button[data-form=csv]", "found => found.map((b) => b.dataset.table)")
    assert set(names) == DATA and len(names) == len(DATA)
    lengths = {}
    for i, name in enumerate(names):
        if i and i % MOST_DOWNLOADS == 0:  # Chromium asks a reader who takes ten files of a page; nobody answers here
            page = pages.open(report)
        rows = list(csv.DictReader(io.StringIO(downloaded(page, name, "csv").decode("utf-8-sig"))))
        entries = json.loads(downloaded(page, name, "json"))
        lengths[name] = len(entries)
        assert len(rows) == len(entries) > 1
        assert list(rows[0]) == list(entries[0])
        for row, entry in zip(rows, entries, strict=True):
            assert [as_cell(value) for value in entry.values()] == [as_cell(text) for text in row.values()]
    assert lengths["trials"] == N_TRIALS and lengths["map"] == (N_LAYERS + 1) * 16


def test_on_paper_it_has_every_chart(pages: Pages, report: Path, tmp_path: Path) -> None:
    page = pages.open(report)
    paper = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert paper.startswith(b"%PDF") and len(paper) > 100_000
    assert page.locator(".chart .main-svg").count() >= len(CHARTS)
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden() and page.locator(".downloads").first.is_hidden()
    page.set_viewport_size({"width": 700, "height": 900})
    assert overflow(page) == 0


def test_without_scripts_it_can_still_be_read(pages: Pages, report: Path) -> None:
    page = pages.open(report, PHONE, script=False)
    assert page.locator(".verdict").first.is_visible() and page.locator("noscript").first.is_visible()
    assert page.locator("#theme").is_hidden() and page.locator(".downloads").first.is_hidden()
    assert page.locator(".unit").count() == 16


@pytest.mark.parametrize("until", ["coverage", "directions", "search", "effect"])
def test_a_run_that_is_still_going(pages: Pages, runs: Path, until: str) -> None:
    page = pages.open(write_report(write_run(runs / until, until=until)), PHONE)
    assert page.get_by_text("This run is not finished.").is_visible()
    wait_for_charts(page)
    assert overflow(page) == 0
    if until == "search":
        pages.keep(page, "report-partial")


def test_the_page_of_a_comparison(pages: Pages, runs: Path) -> None:
    path = runs / "compare.html"
    path.write_text(render_comparison(comparison()), encoding="utf-8")
    page = pages.open(path, PHONE)
    assert wait_for_charts(page) == 2 and overflow(page) == 0
    pages.keep(page, "compare-light-390")


def cell_fills(page: Any) -> list[str]:
    """What the cells of the map are filled with."""
    fills: list[str] = page.eval_on_selector_all(".unit .cell", "cells => cells.map((c) => c.getAttribute('fill'))")
    return fills


def background(page: Any) -> str:
    """Of the whole page."""
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def downloaded(page: Any, name: str, form: str) -> bytes:
    """What a click on the button gives."""
    with page.expect_download() as download:
        page.locator(f"button[data-table='{name}'][data-form='{form}']").click()
    assert download.value.suggested_filename == f"{name}.{form}"
    return Path(download.value.path()).read_bytes()


def as_cell(value: str | float | None) -> str | float:
    """A value as a spreadsheet reads it, from JSON or from CSV."""
    if value is None:
        return ""
    try:
        return float(value)
    except ValueError:
        return str(value)
