"""The page of a run with everything: the comparison, the states after the edit, and the numbers of every figure."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources
from pathlib import Path

import pytest

from sombrero.errors import RunError
from sombrero.records import EditedPlane
from sombrero.reports import write_report
from sombrero.reports.charts import log_ticks
from sombrero.reports.page_scripts import CHART_LIBRARY, chart_library
from sombrero.reports.run_files import read_run
from sombrero.tensor_records import save_record
from tests.reports.run_folders import write_run
from tests.reports.test_page import MOST_BYTES, SECTIONS, Page, read
from tests.reports.whole_runs import N_EDITED, comparison, edited_plane, write_whole_run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read(write_whole_run(tmp_path_factory.mktemp("runs") / "whole"))


def test_the_comparison_stands_after_the_search(page: Page) -> None:
    found = [a["id"] for tag, a in page.elements if tag == "section"]
    assert found == [*SECTIONS[:7], "comparison", *SECTIONS[7:]]
    assert comparison().verdict.sentence in page.words
    assert "−0.200 (−0.0500 to ∞)" in page.words


def test_every_chart_has_its_numbers(page: Page) -> None:
    buttons = {a["data-table"] for tag, a in page.elements if tag == "button" and "data-table" in a}
    told = set(page.data["tables"]) | {"map", "manifold"}
    assert set(page.data["charts"]) | {"map", "cosines", "importance"} == buttons == told
    for table in page.data["tables"].values():
        assert table["rows"] and all(len(row) == len(table["columns"]) for row in table["rows"])


def test_prompts_are_shown_where_the_edit_moves_them(page: Page) -> None:
    traces = {trace["name"]: trace for trace in page.data["charts"]["manifold"]["data"]}
    state = page.data["manifold"]["states"][8]
    before, after = traces["harmful prompt"]["x"], traces["harmful, edited"]["x"]
    assert len(after) == N_EDITED
    ways = traces["moved by the edit"]["x"]
    assert ways[::3] == state["x"][5] and ways[1::3] == after and ways[2::3] == [None] * N_EDITED
    assert set(ways[::3]) <= set(before)
    assert "it moves the harmful mean by 50% of the distance that the two means had" in page.words


def test_an_edited_plane_of_another_run_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    wrong = edited_plane(n_layers=5)
    save_record(EditedPlane(wrong.harmful, wrong.harmless), run / "map/edited-plane.safetensors")
    with pytest.raises(RunError, match=r"edited-plane\.safetensors cannot be read"):
        read_run(run)


def test_a_large_run_stays_small(tmp_path: Path) -> None:
    run = write_whole_run(tmp_path / "run", n_layers=80, n_trials=500)
    assert write_report(run).stat().st_size < MOST_BYTES / 2


def test_the_library_is_the_one_that_its_name_says() -> None:
    text = chart_library()
    assert "plotly.js (basic - minified) v4.1.1" in text[:100] and "</script" not in text and "\r" not in text
    known = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
    assert hashlib.sha256(text.encode()).hexdigest() == known
    folder = resources.files("sombrero.reports").joinpath("vendor")
    assert gzip.decompress(folder.joinpath(CHART_LIBRARY).read_bytes()).decode() == text
    assert "MIT" in folder.joinpath("LICENSE.plotly.txt").read_text(encoding="utf-8")


STEPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.03, 0.4], ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5"]),
        ([1e-4, 1.0], ["0.0001", "0.001", "0.01", "0.1", "1"]),
        ([0.12, 0.17], [f"{step * power / 100:g}" for power in (10, 100) for step in STEPS]),
        ([], ["1", "2", "5"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(values: list[float], text: list[str]) -> None:
    found = log_ticks(values)
    assert found["ticktext"] == text and found["tickvals"] == [float(tick) for tick in text]
