"""The trials of a search on disk: one JSON object a line, kept up to date while the search goes on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from sombrero.progress import Progress
from sombrero.records import TrialScore
from sombrero.run_folder import write_bytes

TRIALS = "trials.jsonl"
"""Name of the file in a run folder."""

_scores = TypeAdapter(tuple[TrialScore, ...])


class TrialLog:
    """Progress that also keeps ``trials.jsonl`` up to date."""

    def __init__(self, inner: Progress, path: Path) -> None:
        self.stage, self.say = inner.stage, inner.say
        self._inner, self._path = inner, path

    def trial(self, score: TrialScore, scores: tuple[TrialScore, ...]) -> None:
        write_trials(scores, self._path)
        self._inner.trial(score, scores)


def write_trials(scores: tuple[TrialScore, ...], path: Path) -> None:
    """One JSON object a line, in the order of the trials."""
    write_bytes(path, "".join(json.dumps(asdict(score)) + "\n" for score in scores).encode())


def read_trials(path: Path) -> tuple[TrialScore, ...]:
    """Read what :func:`write_trials` wrote."""
    return _scores.validate_python([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
