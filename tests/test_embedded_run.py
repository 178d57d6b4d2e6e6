"""The demo's model through the whole pipeline, with a small budget: real behaviour, not only shapes."""

import json
from pathlib import Path

import pytest

from sombrero import verbs
from sombrero.config import load_config

SMALL = {
    "prompts": {"limit": 32, "search_limit": 12, "report_limit": 16},
    "search": {"trials": 2, "finalists": 1, "rules": ["guarded"]},
    "evaluation": {"max_new_tokens": 32, "sequence_tokens": 8, "samples": 2},
}


@pytest.mark.embedded
@pytest.mark.slow
def test_the_embedded_model_is_measured_twice_with_the_same_bytes(tmp_path: Path) -> None:
    few = {"prompts": {"limit": 3}, "evaluation": {"max_new_tokens": 12, "sequence_tokens": 4, "samples": 1}}
    for name in ("first", "second"):
        verbs.measure(load_config(None, {**few, "model": {"source": "embedded"}}), out=tmp_path / name)
    for name in ("measurement.json", "measurement.html"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


@pytest.mark.embedded
@pytest.mark.slow
def test_the_embedded_model_is_mapped_edited_baked_and_measured(tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = verbs.run(load_config(None, {**SMALL, "model": {"source": "embedded"}}), out)
    base, live, baked = (summary[name]["refusals"] for name in ("base", "edited", "baked"))
    assert base["count"] >= 13, "the organism refuses"
    assert live["count"] <= base["count"] // 2, "a guarded edit removes most of it"
    assert abs(live["count"] - baked["count"]) <= 1
    assert summary["baked"]["kl"]["first_token"] < 0.5
    assert summary["coverage"]["max_relative_error"] < 0.1
    assert summary["tensors"]["untouched"] > summary["tensors"]["edited"] > 0
    assert summary["trials"]["generated"] >= 1

    record = json.loads((out / "model" / "sombrero.json").read_text())
    assert record["provenance"]["parameters"]["rule"] == "guarded"
    assert "refusal" in (out / "model" / "README.md").read_text().lower()
    assert (out / "report.html").stat().st_size < 6_000_000
    assert (out / "map.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / "responses.jsonl").exists()
