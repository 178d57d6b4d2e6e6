"""How soon a report can be used: a run of 80 layers and 500 trials in a headless Chromium.

    python benchmarks/report.py [--quick] [--json FILE] [--run FOLDER]

Prints the page's bytes, the processor time of writing it, and of several loads the median and the longest time until
the page is interactive: its slider, its map and its links answer, charts near the window are on their way. GOAL is the
project's own; on a busy machine the time says little. Needs Playwright and Chromium (docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the synthetic run is that of the tests

from tests.browser.conftest import ARGUMENTS, NAMES
from tests.reports.whole_runs import write_whole_run

from sombrero.reports import write_report

GOAL = 1000.0
"""Milliseconds from the end of the file's reading to an interactive page."""

LOADS, QUICK_LOADS = 9, 3

MEASURE = """async () => {
  const entry = performance.getEntriesByType("navigation")[0];
  const slider = document.getElementById("map-slider");
  const began = performance.now();
  slider.value = slider.min;
  slider.dispatchEvent(new Event("input"));
  const answered = performance.now();
  const undrawn = () => [...document.querySelectorAll(".chart")].some((chart) => !chart.dataset.drawn);
  while (undrawn()) await new Promise((done) => setTimeout(done, 10));
  return {
    interactive: entry.domContentLoadedEventEnd - entry.responseEnd,
    slider: answered - began,
    charts: performance.now() - entry.responseEnd,
  };
}"""


def measure(page_file: Path, loads: int) -> dict[str, list[float]]:
    """Milliseconds of every load: until interactive, of one step of the slider, until all charts are drawn."""
    from playwright.sync_api import sync_playwright

    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("no Chromium; install one (Debian: apt-get install chromium)")
    times: dict[str, list[float]] = {"interactive": [], "slider": [], "charts": []}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        for _ in range(loads):
            context = browser.new_context(viewport={"width": 1200, "height": 900})
            page = context.new_page()
            page.goto(page_file.absolute().as_uri())
            for name, value in page.evaluate(MEASURE).items():
                times[name].append(round(value, 1))
            context.close()
        browser.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", type=Path, help="a run folder; without it a synthetic one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or write_whole_run(Path(folder) / "run", n_layers=80, n_trials=500)
        began = time.process_time()
        page_file = write_report(run)
        seconds = time.process_time() - began
        times = measure(page_file, QUICK_LOADS if options.quick else LOADS)
        result: dict[str, Any] = {"bytes": page_file.stat().st_size, "write_seconds": round(seconds, 2), "ms": times}
    print(f"page: {result['bytes'] / 1e6:.2f} MB, written in {seconds:.1f} s of processor time")
    for name, values in times.items():
        print(f"{name}: median {statistics.median(values):.0f} ms, longest {max(values):.0f} ms")
    result["goal_met"] = statistics.median(times["interactive"]) <= GOAL
    print(f"goal, interactive within {GOAL:.0f} ms: {'met' if result['goal_met'] else 'NOT met'}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
