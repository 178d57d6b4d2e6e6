"""What a run folder shows at a moment, as plain values. The folder may be written to while it is read."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sombrero.errors import RunError
from sombrero.progress import PROGRESS
from sombrero.run_folder import MANIFEST, read_config, read_manifest

if TYPE_CHECKING:
    from sombrero.records import TrialScore

REPORT = "report.html"
WATCHED = (MANIFEST, PROGRESS, "trials.jsonl", "baseline.json", "summary.json", REPORT)
"""The files whose change makes a new snapshot."""


class Snapshots:
    """Reads one run folder, and what does not change only once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._trials: tuple[object, tuple[TrialScore, ...]] = (None, ())

    def signature(self) -> tuple[object, ...]:
        """Equal as long as none of the files has changed."""
        return tuple(_stamp(self.path / name) for name in WATCHED)

    def take(self, sent: int = 0) -> dict[str, Any]:
        """The run as it is now: ``trials`` holds those from number ``sent`` on, where that many were told already.

        A folder that cannot be read at the moment (removed, started over, damaged) gives ``problem`` alone.
        """
        try:
            facts = read_manifest(self.path)
            settings = read_config(self.path)
            scores = self._read_trials()
        except RunError as error:
            return {"problem": str(error)}
        sent = sent if sent <= len(scores) else 0
        best, front = _front(scores, settings.search)
        return {
            "name": self.path.absolute().name,
            "model": settings.model.source,
            "goal": settings.search.goal,
            "stages": [
                {"name": name, "seconds": entry["seconds"], "finished": entry["finished"]}
                for name, entry in sorted(facts["stages"].items(), key=lambda item: str(item[1]["finished"]))
            ],
            "now": _load(self.path / PROGRESS),
            "clock": time.time(),
            "planned": settings.search.trials,
            "from": sent,
            "trials": [_row(score) for score in scores[sent:]],
            "front": front,
            "best": best,
            "base": (_load(self.path / "baseline.json") or {}).get("refusals"),
            "summary": _result(_load(self.path / "summary.json")),
            "report": report_file(self.path) is not None,
        }

    def _read_trials(self) -> tuple[TrialScore, ...]:
        from sombrero.stages.trials import TRIALS, read_trials

        file = self.path / TRIALS
        stamp = _stamp(file)
        if stamp != self._trials[0]:
            try:
                self._trials = (stamp, () if stamp is None else read_trials(file))
            except FileNotFoundError:  # removed between two looks
                self._trials = (None, ())
            except (OSError, ValueError) as error:
                raise RunError(f"{file} cannot be read: {error}") from error
        return self._trials[1]


def report_file(path: Path) -> Path | None:
    """The run's report; None where there is none, or what goes by its name leads out of the folder."""
    file = path / REPORT
    inside = file.is_file() and file.resolve().is_relative_to(path.resolve())
    return file if inside else None


def _front(scores: Sequence[TrialScore], settings: Any) -> tuple[int | None, list[int]]:
    """The number of the trial that would be picked now, and the numbers of the front by rising KL."""
    if not scores:
        return None, []
    from sombrero.search import rank_finalists  # which takes seconds to import
    from sombrero.stages.reaching import constraints

    ranked = rank_finalists(scores, constraints(settings))
    by_kl = sorted(ranked, key=lambda score: (math.inf if score.kl is None else score.kl, score.number))
    return (ranked[0].number if ranked else None), [score.number for score in by_kl]


def _row(score: TrialScore) -> dict[str, Any]:
    where = score.parameters
    return {
        "number": score.number,
        "state": score.state,
        "refusals": score.refusals,
        "predicted": score.predicted_refusals,
        "n": score.n,
        "rate": score.rate,
        "kl": score.kl if score.kl is not None and math.isfinite(score.kl) else None,
        "lost": score.lost,
        "n_true": score.n_true,
        "rule": where.rule,
        "units": "single" if where.directions == "single" else "+".join(map(str, where.units)),
        "error": score.error,
    }


def _result(summary: dict[str, Any] | None) -> dict[str, Any] | None:
    """Refusals and KL of base, edited and baked model on the reporting prompts."""
    if summary is None:
        return None
    return {
        name: {"refusals": summary[name]["refusals"], "kl": (summary[name].get("kl") or {}).get("first_token")}
        for name in ("base", "edited", "baked")
        if name in summary
    }


def _load(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none, or none yet."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
