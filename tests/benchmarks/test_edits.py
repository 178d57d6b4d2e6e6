"""The benchmark of edits runs, and prints what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

from sombrero.records import RuleName

ROOT = Path(__file__).parents[2]


def test_the_quick_run_measures_every_rule(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/edits.py"), "--quick", "--json", str(tmp_path / "edits.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "edits.json").read_text(encoding="utf-8"))
    assert [cost["rule"] for cost in figures["costs"]] == list(get_args(RuleName))
    for cost in figures["costs"]:
        assert f"| `{cost['rule']}` | {cost['prepare_seconds']:.2f} | {cost['edit_ms']:.1f}" in result.stdout
        assert min(value for name, value in cost.items() if name != "rule") > 0
