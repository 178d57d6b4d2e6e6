"""Strings from outside stay text: what models generate, what prompt files, categories, names and settings hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sombrero.reports import write_report
from sombrero.reports.comparison_page import render_comparison
from tests.browser.watching import PHONE, Pages, overflow, wait_for_charts
from tests.reports.run_folders import HOSTILE, trials, write
from tests.reports.whole_runs import comparison, write_whole_run

CORPUS = (
    *HOSTILE,
    "<img src=x onerror=alert(1)>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "<details open ontoggle=alert(1)>",
    '<input autofocus onfocus="alert(1)">',
    "<math><mtext></table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<object data='data:text/html,<script>alert(1)</script>'></object>",
    "<base href='https://example.org/'>",
    "<meta http-equiv=refresh content='0;url=https://example.org/'>",
    "<link rel=stylesheet href='https://example.org/x.css'><style>@import 'https://example.org/y.css'</style>",
    "<form action='https://example.org/'><button formaction='javascript:alert(1)'>go",
    "javascript:alert(1)//",
    "${alert(1)} `${alert(1)}` {{constructor.constructor('alert(1)')()}}",
    "\\u003cimg src=x onerror=alert(1)\\u003e \\x3cscript\\x3ealert(1)\\x3c/script\\x3e",
    '=HYPERLINK("https://example.org","click")',
    "x" * 3000,
    "A\u0301\u0302\u0303" * 40 + " \u202eevil\u202c \ufeff\u200b",
)
MADE_BY_NONE = "img, iframe, object, embed, base, link, form, math, [onerror], [onload], [onfocus], [ontoggle]"


@pytest.fixture(scope="module")
def report(runs: Path) -> Path:
    """Every string of the corpus in every place that takes one."""
    all_in_one = " ".join(text for text in CORPUS if len(text) < 500)
    run = write_whole_run(
        runs / "hostile",
        texts=CORPUS,
        model={"source": all_in_one, "revision": all_in_one},
        prompts={"system_prompt": all_in_one},
    )
    manifest = json.loads((run / "run.json").read_bytes())
    manifest["created"] = all_in_one
    for text in CORPUS:
        manifest["versions"][text[:200]] = manifest["identity"][text[:200]] = text[:200]
        manifest["stages"][text[:200]] = {"seconds": 1.0}
    write(run / "run.json", manifest)
    lines = trials(len(CORPUS) * 3)
    for line, text in zip(lines, CORPUS * 3, strict=True):
        line["parameters"]["directions"] = text
        line |= {"error": text} if line["state"] == "failed" else {}
    (run / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    verification = json.loads((run / "verification.json").read_bytes()) | {"flips": CORPUS}
    write(run / "verification.json", verification)
    return write_report(run)


@pytest.mark.parametrize("script", [True, False], ids=["scripts", "no-scripts"])
def test_nothing_becomes_an_element_or_runs(pages: Pages, report: Path, script: bool) -> None:
    page = pages.open(report, PHONE, script=script)
    if script:
        wait_for_charts(page)
        use_everything(page)
        assert overflow(page) == 0
        pages.keep(page, "hostile-light-390")
    assert page.locator(MADE_BY_NONE).count() == 0
    assert page.locator("main a, footer a").count() == 0
    assert page.locator("script").count() == 4  # its own: theme, data, library, script
    assert page.get_by_text("<details open ontoggle=alert(1)>").count() >= 3


def test_nothing_runs_on_the_page_of_a_comparison(pages: Pages, runs: Path) -> None:
    path = runs / "hostile-compare.html"
    path.write_text(render_comparison(comparison(CORPUS[0])), encoding="utf-8")
    page = pages.open(path)
    wait_for_charts(page)
    assert page.locator(MADE_BY_NONE).count() == 0


def use_everything(page: Any) -> None:
    """Open what is folded, show every plane and some units, point at trials."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for choice in page.locator("input[name=plane]").all():
        choice.check()
        page.locator(".unit").nth(5).hover()
    page.locator("#chart-trials").scroll_into_view_if_needed()
    box = page.locator("#chart-trials .nsewdrag").first.bounding_box()
    for i in range(8):
        page.mouse.move(box["x"] + box["width"] * i / 8, box["y"] + box["height"] * (i + 1) / 10)
