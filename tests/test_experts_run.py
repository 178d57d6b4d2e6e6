"""A whole run on a tiny model with fused experts: they are edited, baked, and counted."""

from __future__ import annotations

import json
from pathlib import Path

from sombrero.config import load_config
from sombrero.verbs import run
from tests.tiny_architectures import save_tiny_architecture
from tests.tiny_runs import tiny_settings


def test_a_run_edits_experts_and_counts_those_that_no_prompt_reached(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    settings["model"]["source"] = str(save_tiny_architecture("gpt_oss", tmp_path / "model"))
    settings["search"] |= {"rules": ["compose", "affine"], "trials": 3, "finalists": 1}
    summary = run(load_config(None, settings), tmp_path / "run")
    assert summary["live_equals_baked"]["max_log_prob_difference"] < 1e-4
    assert summary["rules_left_out"] == {}
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    routing = json.loads((tmp_path / "run" / "routing.json").read_text())
    assert [entry["writer"] for entry in routing] == ["0.experts", "1.experts", "2.experts"]
    assert manifest["experts"]["experts"] == 12
    assert manifest["experts"]["unreached"] == sum(entry["experts"] - entry["reached"] for entry in routing)
    assert manifest["experts"]["prompts"] > 0 and "all alike" in manifest["experts"]["rule"]
