"""The benchmark of disk offload runs, and its limit holds the mapping but not the whole model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is one of Linux")
def test_the_quick_run_maps_within_a_limit_that_the_whole_model_breaks(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/offload.py"), "--quick", "--work", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(
        [*command, "--json", str(tmp_path / "figures.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    whole, offloaded, shape = figures["whole"], figures["offloaded"], figures["shape"]
    assert "allocate memory" in whole["error"] and whole["layers_mapped"] == 0
    assert offloaded["layers_mapped"] == shape["layers"] + 1
    assert 0 < offloaded["peak_anonymous_bytes"] < shape["limit_mib"] * 2**20
    assert offloaded["parameters_on_disk"] > 0.9 * figures["parameters"]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
