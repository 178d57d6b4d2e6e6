"""Which settings of an edit decide what it does: importance of the search's parameters, from its trials alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sombrero.records import TrialScore
from sombrero.reports.writing import write

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FILE, FEWEST_TRIALS, N_TREES = "importance.json", 20, 16
EVALUATOR = "fANOVA"
MOST_TRIALS = 500
"""Of a longer search evenly spaced ones: the time grows faster than their number, and the shares hardly change."""

MOST_CHOICES = 12

Settings = dict[str, str | float]


def parameter_importance(trials: Sequence[TrialScore]) -> dict[str, Any]:
    """The share of the variance of each objective that each setting explains, by Optuna's fANOVA (Hutter et al. 2014).

    Over generated and screened trials, whose refusals are counted or predicted. ``objectives`` is empty, and
    ``problem`` says why, where there are too few trials or nothing varies. The same trials give the same shares.
    """
    scored = [trial for trial in trials if trial.state != "failed" and trial.kl is not None and math.isfinite(trial.kl)]
    scored = scored[:: max(1, -(-len(scored) // MOST_TRIALS))]
    told: dict[str, Any] = {"evaluator": EVALUATOR, "trials": len(scored), "objectives": {}, "problem": None}
    if len(scored) < FEWEST_TRIALS:
        return told | {"problem": f"{len(scored)} trials were scored; with fewer than {FEWEST_TRIALS} it says nothing"}
    rows = [trial_settings(trial) for trial in scored]
    varying = distributions(rows)
    if not varying:
        return told | {"problem": "no setting differs between the trials"}
    values = {
        "refusals": [trial.rate for trial in scored],
        "kl": [math.log10(max(trial.kl or 0.0, 1e-6)) for trial in scored],
    }
    if any(trial.n_true for trial in scored):
        values["lost"] = [trial.lost_rate for trial in scored]
    shares = {name: _shares(rows, varying, found) for name, found in values.items() if len(set(found)) > 1}
    return told | {"objectives": shares, "problem": None if shares else "all trials came out alike"}


def trial_settings(trial: TrialScore) -> Settings:
    """A trial's edit as a flat row: what a person would turn to change it."""
    parameters = trial.parameters
    row: Settings = {
        "rule": parameters.rule,
        "directions": parameters.directions,
        "state of the directions": "own" if parameters.map_layer is None else str(parameters.map_layer),
        "number of directions": float(len(parameters.units)),
        "α": math.log10(parameters.alpha) if parameters.alpha > 0 else -12.0,
        "β": parameters.beta,
        "γ": parameters.gamma,
    }
    for kind, profile in sorted(parameters.profiles.items()):
        row |= {
            f"strength, {kind}": profile.strength,
            f"first layer, {kind}": float(profile.first),
            f"last layer, {kind}": float(profile.last),
        }
    return row


def distributions(rows: Sequence[Settings]) -> dict[str, BaseDistribution]:
    """The settings that all rows have and that differ among them, over the range that was tried.

    Left out: a setting that equals an earlier one in every trial (one layer window for all writers), and one with more
    than ``MOST_CHOICES`` names, which the evaluator takes minutes for.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, BaseDistribution] = {}
    columns: list[list[str | float]] = []
    for name in rows[0]:
        if not all(name in row for row in rows):
            continue
        column = [row[name] for row in rows]
        if len(set(column)) == 1 or column in columns:
            continue
        columns.append(column)
        numbers = [value for value in column if not isinstance(value, str)]
        texts = sorted({value for value in column if isinstance(value, str)})
        if len(texts) > MOST_CHOICES:
            continue
        found[name] = CategoricalDistribution(texts) if texts else FloatDistribution(min(numbers), max(numbers))
    return found


def kept_importance(folder: Path, trials: Sequence[TrialScore] | None) -> dict[str, Any] | None:
    """:func:`parameter_importance`, kept as ``importance.json`` for these trials; None without any."""
    path, log = folder / FILE, folder / "trials.jsonl"
    if trials is None:
        return None
    key = hashlib.sha256(log.read_bytes()).hexdigest()
    known = _read(path)
    if known is not None and known.get("trials_hash") == key:
        return known
    found = {"trials_hash": key} | parameter_importance(trials)
    write(path, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
    return found


def _read(path: Path) -> dict[str, Any] | None:
    """What an earlier report kept; None where it is not there or damaged, as it can be computed again."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _shares(
    rows: Sequence[Settings], varying: Mapping[str, BaseDistribution], values: Sequence[float]
) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: row[name] for name in varying}, distributions=dict(varying), value=value
                )
                for row, value in zip(rows, values, strict=True)
            ]
        )
        evaluator = FanovaImportanceEvaluator(n_trees=N_TREES, seed=0)
        found = get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(before)
    return {name: round(float(share), 4) for name, share in sorted(found.items(), key=lambda item: (-item[1], item[0]))}
