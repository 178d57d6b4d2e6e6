"""The benchmark of generation runs in its quick form, and writes verdicts and seconds but no answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.tiny_models import save_tiny

ROOT = Path(__file__).parents[2]
TOOLS = ["transformers", "sombrero, whole answers", "sombrero, verdicts only"]
LABELS = {"refusal", "answer", "degenerate", "empty"}


def test_the_quick_run_compares_every_verdict(tmp_path: Path) -> None:
    folder, file = save_tiny("llama", tmp_path / "model"), tmp_path / "generation.json"
    command = [sys.executable, str(ROOT / "benchmarks/generation.py"), "--quick", "--model", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [*command, "--json", str(file)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert [(run["model"], run["tool"]) for run in figures["runs"]] == [
        (m, t) for m in ("base", "edited") for t in TOOLS
    ]
    for run in figures["runs"]:
        assert len(run["labels"]) == figures["n_prompts"] == 8
        assert run["verdicts_equal"] == 8 and run["differ"] == []
        assert run["tool"] == TOOLS[2] or run["same_tokens"] == 8
        assert min(run["seconds"], run["processor_seconds"], run["ratio"]) > 0
        assert f"| {run['model']} | {run['tool']} | {run['batch_size']} | {run['seconds']:.1f} |" in result.stdout
        # labels are all that is said of an answer
        assert set(run["labels"].values()) <= LABELS
        assert not any(isinstance(value, str) for name, value in run.items() if name not in ("model", "tool"))
    assert set(figures["goals"]) == {"whole answers", "verdicts only"}
