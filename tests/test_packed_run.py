"""A whole run on a tiny gpt-oss in MXFP4, and bakes of its trials in every way to store them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sombrero.config import load_config
from sombrero.errors import CheckpointError, UsageError
from sombrero.stages import baking
from sombrero.verbs import bake, run, verify
from tests.packed_files import save_mxfp4
from tests.tiny_runs import tiny_settings


def test_a_run_bakes_packed_experts_and_proves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(tmp_path, markers="a\ne\no")
    settings["model"]["source"] = str(save_mxfp4(tmp_path / "model")[0])
    settings["search"] |= {"rules": ["compose"], "trials": 3, "finalists": 1}
    summary = run(load_config(None, settings), tmp_path / "run")
    assert summary["live_equals_baked"]["max_log_prob_difference"] < 1e-2
    model = next(tmp_path.glob("run/**/sombrero.json")).parent
    record = json.loads((model / "sombrero.json").read_text())
    assert record["packed"] and all(item["stored"] == "beside" for item in record["packed"])
    assert "Edited weights of a quantized base" in (model / "README.md").read_text()
    for way in ("nearest", "carry"):
        found = bake(
            tmp_path / "run",
            tmp_path / way,
            packed=way,
            accept_requantization_error=True,
            verify="tensors",
        )
        assert 0 < found["verified"]["worst"] <= 1 and set(found["packed"].values()) == {f"{way}, MXFP4"}
        assert found["survived"] > 0 and verify(tmp_path / way)["verified"] > 0
    settings["bake"] = {"packed": "carry", "accept_requantization_error": True}
    # what rounding does to a random model is noise, and no bound lies surely below it but this one
    with monkeypatch.context() as bounds:
        bounds.setattr(baking, "KL_FLOOR", -1.0)
        bounds.setattr(baking, "KL_SHARE", -1.0)
        with pytest.raises(CheckpointError, match=r"the baked checkpoint .* live edit"):
            run(load_config(None, settings), tmp_path / "run")
    record = json.loads((model / "sombrero.json").read_text())
    assert record["packed"] and all(item["stored"] == "carry" for item in record["packed"])
    settings["bake"] = {"packed": "beside"}
    again = run(load_config(None, settings), tmp_path / "run")
    assert again["edit"] == summary["edit"]  # another way to store it is no other search
    record = json.loads((model / "sombrero.json").read_text())
    assert all(item["stored"] == "beside" for item in record["packed"])
    with pytest.raises(UsageError, match="packed is of merged"):
        bake(tmp_path / "run", tmp_path / "none", packed="carry", adapter=True)
