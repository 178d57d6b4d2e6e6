"""axe-core finds nothing serious in the pages, in light and dark, folded and unfolded."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sombrero.reports import write_report
from sombrero.reports.comparison_page import render_comparison
from tests.browser.watching import PHONE, WIDE, Pages, wait_for_charts
from tests.reports.whole_runs import comparison, write_whole_run

GRAVE = {"serious", "critical"}


@pytest.fixture(scope="module")
def page_files(runs: Path) -> dict[str, Path]:
    report = write_report(write_whole_run(runs / "accessible"))
    compared = runs / "accessible-compare.html"
    compared.write_text(render_comparison(comparison()), encoding="utf-8")
    return {"report": report, "compare": compared}


@pytest.mark.parametrize(
    ("name", "size", "scheme"), [("report", WIDE, "light"), ("report", PHONE, "dark"), ("compare", WIDE, "dark")]
)
def test_axe_finds_nothing_grave(
    pages: Pages, page_files: dict[str, Path], name: str, size: tuple[int, int], scheme: str
) -> None:
    page = pages.open(page_files[name], size, scheme)
    wait_for_charts(page)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert grave(page) == []


def grave(page: Any) -> list[str]:
    """Violations that are serious or critical: rule, and the first elements."""
    page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']} ({one['impact']}): {[node['html'][:160] for node in one['nodes'][:3]]}"
        for one in found["violations"]
        if one["impact"] in GRAVE
    ]
