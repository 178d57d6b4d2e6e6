"""Goal calibrate end to end on a tiny model: run, resume, summary and report; an earlier run's front is tried first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sombrero import verbs
from sombrero.config import RunConfig
from sombrero.errors import RunError
from tests.tiny_runs import tiny_config

CONTRASTS = [f"Take the {what} of {who} now" for what in ("bike", "coat", "ring", "lamp") for who in ("Bob", "a boy")]
RULES = ("guarded", "project")


def calibrate_config(folder: Path, **search: Any) -> RunConfig:
    """A tiny run of the goal calibrate, with contrasts of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contrast.txt").write_text("\n".join(CONTRASTS) + "\n", encoding="utf-8")
    asked = {"goal": "calibrate", "rules": RULES, "trials": 4, "keep_true_refusals": 1.0, **search}
    return tiny_config(folder, search=asked, prompts={"contrast": str(folder / "contrast.txt")})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("calibrate")
    return folder, verbs.run(calibrate_config(folder / "given"), folder / "run")


def test_the_summary_says_what_was_kept_and_whether_the_goal_was_reached(finished: tuple[Path, dict[str, Any]]) -> None:
    _, summary = finished
    assert summary["goal"] == "calibrate"
    assert summary["rules_left_out"].keys() == {"project"}
    for name in ("edited", "baked"):
        kept = summary["kept"][name]
        assert kept["harmful"]["n"] == summary["base"]["refusals"]["count"]
        assert kept["contrast"]["n"] == summary["base"]["contrast_refusals"]["count"]
    limits = summary["constraints"]
    assert limits["reached"] == all(limits[k]["met"] for k in ("max_refusals", "max_kl", "keep_true_refusals"))
    assert summary["screening"]["n"] == summary["trials"]["generated"]
    assert summary["edit"]["rule"] == "guarded"


def test_trials_report_and_prompts_belong_to_the_goal(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = finished
    trials = [json.loads(line) for line in (folder / "run" / "trials.jsonl").read_text().splitlines()]
    baseline = json.loads((folder / "run" / "calibration.json").read_text())
    assert {t["n"] for t in trials} == {len(baseline["borderline"])}
    assert all(t["lost"] is not None and 0 <= t["lost"] <= t["n_true"] for t in trials if t["state"] == "generated")
    page = (folder / "run" / "report.html").read_text()
    assert "true refusals lost" in page and "harmful twins" in page
    assert verbs.run(calibrate_config(folder / "given"), folder / "run") == summary


def test_an_earlier_run_of_the_same_model_is_tried_first(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    found = verbs.search(calibrate_config(folder / "given", trials=1, warm_from=str(folder / "run")), folder / "warm")
    earlier = [json.loads(line) for line in (folder / "run" / "trials.jsonl").read_text().splitlines()]
    first = json.loads((folder / "warm" / "trials.jsonl").read_text().splitlines()[0])
    assert found["trials"] == 1
    assert first["parameters"] in [trial["parameters"] for trial in earlier]


def test_an_earlier_run_of_another_model_is_refused(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    manifest = json.loads((folder / "run" / "run.json").read_text())
    other = folder / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps(manifest | {"identity": {"checkpoint": "f" * 64, "prompts": "0" * 64}}))
    with pytest.raises(RunError, match=r"edits another model.*--warm-from"):
        verbs.search(calibrate_config(folder / "given", warm_from=str(other)), folder / "warm2")
    with pytest.raises(RunError, match="there is no run"):
        verbs.search(calibrate_config(folder / "given", warm_from=str(folder / "none")), folder / "warm3")
