"""The benchmark of the map runs, in its quick form, and says what it needs. Its times are not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks/som.py"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True, env=os.environ | environment
    )


def test_a_quick_run_gives_all_figures(tmp_path: Path) -> None:
    pytest.importorskip("minisom")
    pytest.importorskip("fastersom")
    result = run("--quick", "--json", str(tmp_path / "figures.json"), "--figure", str(tmp_path / "cost.png"))
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert {(row["kind"], row["n"]) for row in figures["comparisons"]} == {
        (kind, n) for kind in ("structured", "isotropic") for n in (40, 600)
    }
    for row in figures["comparisons"]:
        assert row["vs_minisom"]["wall_per_layer"] == pytest.approx(2 * row["vs_minisom"]["wall"])
        assert row["vs_fastersom_random"]["cpu"] > 0 and len(row["runs"]) == 1
        assert row["runs"][0]["sombrero"]["error_first"] > 0
    assert {"n", "n_layers", "d", "units"} < figures["growth"].keys()
    for row in figures["memory"]:
        assert row["peak_gib"] >= row["import_gib"] > 0
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert "times as fast" in result.stdout and "slope" in result.stdout


def test_a_missing_peer_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "fastersom.py").write_text("raise ImportError('hidden', name='fastersom')\n", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = run("--quick", PYTHONPATH=path)
    assert result.returncode != 0
    assert "fastersom, which is missing: pip install -c constraints.txt '.[bench]'" in result.stderr
