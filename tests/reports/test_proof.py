"""The proofs: what the leak check adds to the section, and that older runs have none of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from sombrero.records import LayerLeak
from sombrero.reports.page import render
from sombrero.reports.proof_section import proof_section
from sombrero.reports.run_files import read_run
from tests.reports.run_folders import write, write_run

LEAKS = (LayerLeak(7, ("7.attention",), 1.25, 0.031, 0.4), LayerLeak(8, ("8.attention", "8.mlp"), 2.5, 0.774, 0.9))


def test_what_the_edit_leaves_is_shown_with_its_bound(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", search={"max_leak": 0.25})
    write(run / "leak.json", [asdict(leak) for leak in LEAKS])
    files = read_run(run)
    view = proof_section(files)
    assert view is not None
    assert (view["leak"]["above"], view["leak"]["layers"], view["leak"]["bound"]) == (1, 2, "25%")
    assert view["leak"]["rows"] == [(7, "1.25", "3.1%", "40.0%"), (8, "2.50", "77.4%", "90.0%")]
    words = " ".join(render(files).split())
    assert "At most 77.4% of the component along its directions is still written (layer 8); 1 of 2 edited" in words


def test_a_run_without_a_leak_check_shows_none(tmp_path: Path) -> None:
    files = read_run(write_run(tmp_path / "run"))
    view = proof_section(files)
    assert view is not None and view["leak"] is None
    assert "still written" not in render(files)
