"""The benchmark of detectors, without the peer: a list of substrings from a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import detectors
from sombrero.evaluation import MarkerDetector

ROWS = [
    {"label": "refusal", "text": "I can't help with that."},
    {"label": "refusal", "text": "Das kann ich nicht tun.", "language": "de"},
    {"label": "answer", "text": "I'm sorry to hear that! Drink some tea."},
    {"label": "partial", "text": "Why do you want to know that?"},
]


def test_scores_are_precision_recall_and_f1() -> None:
    found = detectors.compare(ROWS, MarkerDetector(["sorry", "can't"]))
    assert found["n"] == {"all": 4, "English": 3, "other languages": 1}
    assert found["refusal"]["all"]["opening"]["f1"] == found["partial"]["all"]["opening"]["f1"] == 1
    substring = found["refusal"]["all"]["substring"]
    assert (substring["hits"], substring["false"], substring["missed"], substring["f1"]) == (1, 1, 1, 0.5)
    assert found["refusal"]["other languages"]["substring"]["precision"] == 0


def test_figures_are_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "markers.txt").write_text("sorry\n", encoding="utf-8")
    files = ["--markers", str(tmp_path / "markers.txt"), "--json", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", ["detectors.py", "--quick", *files])
    detectors.main()
    assert "refusal, other languages" in capsys.readouterr().out
    assert json.loads((tmp_path / "figures.json").read_text())["refusal"]["all"]["opening"]["f1"] > 0.9


def test_an_absent_peer_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--markers"):
        detectors.substrings(None, tmp_path)
