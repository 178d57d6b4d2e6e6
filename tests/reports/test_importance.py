"""Which settings decide: found where they were planted, from the trials alone, and computed once."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sombrero.records import LayerProfile, TrialScore
from sombrero.reports import importance, write_report
from sombrero.reports.importance import FILE, kept_importance, parameter_importance
from sombrero.reports.run_files import read_run
from tests.reports.run_folders import trials, write_run


def scored(n: int = 60) -> tuple[TrialScore, ...]:
    """Trials whose refusals follow one strength alone, and whose KL follows β."""
    found = []
    for trial in TypeAdapter(tuple[TrialScore, ...]).validate_python(trials(n)):
        draw = random.Random(trial.number)
        strength, beta = draw.uniform(0, 2), draw.choice([0.5, 1.0, 2.0])
        profiles = {
            "attention": LayerProfile(4, 11, strength),
            "mlp": LayerProfile(4, 11, draw.uniform(0, 1.5)),
        }
        parameters = dataclasses.replace(trial.parameters, profiles=profiles, beta=beta)
        refusals = round(64 * (1 - strength / 2))
        found.append(
            dataclasses.replace(trial, parameters=parameters, state="generated", refusals=refusals, kl=0.1 * beta**3)
        )
    return tuple(found)


def test_what_decides_is_found() -> None:
    shares = parameter_importance(scored())["objectives"]
    assert next(iter(shares["refusals"])) == "strength, attention" and shares["refusals"]["strength, attention"] > 0.6
    assert next(iter(shares["kl"])) == "β" and shares["kl"]["β"] > 0.6
    for found in shares.values():
        assert abs(sum(found.values()) - 1) < 0.01
        assert "first layer, attention" not in found  # it never varied


def test_the_same_trials_give_the_same_shares() -> None:
    assert parameter_importance(scored()) == parameter_importance(scored())


def test_where_it_says_nothing_it_says_so() -> None:
    few = parameter_importance(scored(8))
    assert few["objectives"] == {} and "8 trials" in few["problem"]
    alike = tuple(dataclasses.replace(scored()[0], number=i) for i in range(30))
    assert "no setting differs" in parameter_importance(alike)["problem"]
    same = tuple(dataclasses.replace(trial, refusals=3, kl=0.1) for trial in scored())
    assert "alike" in parameter_importance(same)["problem"]


def test_a_setting_with_many_names_is_left_out() -> None:
    many = tuple(
        dataclasses.replace(trial, parameters=dataclasses.replace(trial.parameters, directions=f"set {i}"))
        for i, trial in enumerate(scored(40))
    )
    assert "directions" not in parameter_importance(many)["objectives"]["refusals"]


def test_it_is_computed_once_and_again_when_trials_come(tmp_path: Path, monkeypatch: Any) -> None:
    run = write_run(tmp_path / "run")
    calls: list[int] = []
    real = importance.parameter_importance
    monkeypatch.setattr(importance, "parameter_importance", lambda found: calls.append(len(found)) or real(found))
    write_report(run)
    kept = json.loads((run / FILE).read_bytes())
    assert kept_importance(run, read_run(run).trials) == kept and calls == [48]
    (run / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in trials(50)), encoding="utf-8")
    write_report(run)
    assert calls == [48, 50]
    (run / FILE).write_text("{ damaged", encoding="utf-8")
    assert kept_importance(run, read_run(run).trials) is not None and calls == [48, 50, 50]
