"""A study that was stopped and continued equals one that was not; failed trials are recorded and it goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import optuna
import pytest
from optuna.trial import TrialState

from sombrero.errors import NumericalError, RunError
from sombrero.records import EditParameters, TrialScore
from sombrero.search import (
    Limits,
    SearchSpace,
    SerialScorer,
    TrialBench,
    finished_scores,
    open_study,
    run_study,
    scoring,
)
from sombrero.search import study as study_module
from tests.planned import Planned
from tests.search.benches import WatchedPlanner, make_bench, whole_space

TRIALS = 15
"""More than the points that every search starts from, and than those that the sampler draws at random."""
IDENTITY = "0" * 64


class Bench:
    """What the tests need, made once."""

    def __init__(self, folder: Path) -> None:
        self.planned: Planned
        self.plain: TrialBench
        self.planned, self.plain = make_bench(folder / "model")
        self.space: SearchSpace = whole_space(self.planned)
        self.expected = self.run(study_in(folder), TRIALS)

    def run(self, study: optuna.Study, trials: int, **how: Any) -> tuple[TrialScore, ...]:
        """Bring the study to ``trials`` on this bench."""
        return run_study(study, self.space, SerialScorer(self.plain), trials=trials, seed=3, **how)

    def watched(self, watch: Callable[[int, EditParameters], None]) -> TrialBench:
        """This bench with something that happens in the middle of trials."""
        return replace(self.plain, planner=WatchedPlanner(self.planned, watch))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("study"))


def study_in(folder: Path, identity: str = IDENTITY) -> optuna.Study:
    return open_study(f"sqlite:///{folder / 'study.db'}", identity)


def test_scores_are_numbered_in_order_and_are_kept(bench: Bench, tmp_path: Path) -> None:
    seen: list[int] = []
    study = study_in(tmp_path)
    scores = bench.run(study, 3, on_trial=lambda score, scores: seen.append(len(scores)))
    assert [score.number for score in scores] == [0, 1, 2]
    assert seen == [1, 2, 3]
    assert finished_scores(study_in(tmp_path)) == scores == bench.expected[:3]
    assert {score.state for score in bench.expected} <= {"generated", "screened"}
    assert len({str(score.parameters) for score in bench.expected}) > TRIALS // 2


def test_a_finished_study_does_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.run(study_in(tmp_path), 3)

    def fail(number: int, parameters: EditParameters) -> NoReturn:
        raise AssertionError("a trial was made again")

    again = run_study(study_in(tmp_path), bench.space, SerialScorer(bench.watched(fail)), trials=3, seed=3)
    assert again == bench.expected[:3]


def test_interrupted_in_the_middle_of_trials_it_continues_as_if_nothing_had_been(bench: Bench, tmp_path: Path) -> None:
    """Ctrl-C inside every few trials, screening and generation alike, until the study is through."""

    def interrupt(number: int, parameters: EditParameters) -> None:
        if number == 8:
            raise KeyboardInterrupt

    n_interrupts = 0
    while len(finished_scores(study_in(tmp_path))) < TRIALS:
        try:
            run_study(study_in(tmp_path), bench.space, SerialScorer(bench.watched(interrupt)), trials=TRIALS, seed=3)
        except KeyboardInterrupt:
            n_interrupts += 1
    assert n_interrupts >= 2
    assert finished_scores(study_in(tmp_path)) == bench.expected


@pytest.mark.parametrize("stop_at", [1, 13])
def test_a_score_that_was_recorded_but_not_told_is_not_lost(
    bench: Bench, tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two writes of a trial's end: the score stands in the study, the trial is still open."""
    tell = study_module._tell

    def stop(study: optuna.Study, number: int, score: TrialScore) -> None:
        if score.number == stop_at:
            raise KeyboardInterrupt
        tell(study, number, score)

    monkeypatch.setattr(study_module, "_tell", stop)
    with pytest.raises(KeyboardInterrupt):
        bench.run(study_in(tmp_path), TRIALS)
    monkeypatch.undo()
    assert study_in(tmp_path).trials[-1].state == TrialState.RUNNING
    calls: list[int] = []
    again = bench.watched(lambda number, parameters: calls.append(number))
    scores = run_study(study_in(tmp_path), bench.space, SerialScorer(again), trials=stop_at + 1, seed=3)
    assert calls == []  # it was scored already
    assert scores == bench.expected[: stop_at + 1]
    assert bench.run(study_in(tmp_path), TRIALS) == bench.expected


def test_open_trials_of_killed_processes_do_not_count(bench: Bench, tmp_path: Path) -> None:
    study = study_in(tmp_path)
    bench.run(study, 2)
    study.ask()
    bench.space.suggest(study.ask())
    assert bench.run(study_in(tmp_path), 4) == bench.expected[:4]
    assert not study_in(tmp_path).get_trials(states=(TrialState.RUNNING,))


def test_a_numerical_error_is_a_recorded_failure_and_the_study_goes_on(bench: Bench, tmp_path: Path) -> None:
    def fail(number: int, parameters: EditParameters) -> None:
        if parameters.rule == "project":
            raise NumericalError("singular")

    scores = run_study(study_in(tmp_path), bench.space, SerialScorer(bench.watched(fail)), trials=TRIALS, seed=3)
    assert [score.number for score in scores] == list(range(TRIALS))
    for score in scores:
        assert (score.state == "failed") == (score.parameters.rule == "project")
        assert score.error == ("singular" if score.state == "failed" else None)
    assert any(score.state == "failed" for score in scores)
    assert finished_scores(study_in(tmp_path)) == scores
    states = [trial.state for trial in study_in(tmp_path).trials]
    assert states.count(TrialState.FAIL) == sum(score.state == "failed" for score in scores)


@pytest.mark.parametrize("broken", ["kl", "log_odds"])
def test_an_edit_that_breaks_the_model_is_a_failure(
    bench: Bench, tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN on either set counts as failed: a broken model refuses nothing, and must not win by that."""
    screen = scoring.screen

    def overflowing(*arguments: Any) -> TrialScore:
        return replace(screen(*arguments), **{broken: float("nan")})

    monkeypatch.setattr(scoring, "screen", overflowing)
    scores = bench.run(study_in(tmp_path), 2)
    assert [score.state for score in scores] == ["failed", "failed"]
    assert all("NaN" in (score.error or "") for score in scores)


def test_another_identity_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.run(study_in(tmp_path), 1)
    with pytest.raises(RunError, match=r"another model, prompts or configuration.*--fresh"):
        study_in(tmp_path, "1" * 64)
    assert len(finished_scores(study_in(tmp_path))) == 1


def test_seeds_differ_and_any_seed_will_do(bench: Bench, tmp_path: Path) -> None:
    n_starts = len(bench.space.warm_starts())
    scores = run_study(study_in(tmp_path), bench.space, SerialScorer(bench.plain), trials=n_starts + 2, seed=2**40)
    assert scores[:n_starts] == bench.expected[:n_starts]  # the points that every search starts from
    assert scores[n_starts:] != bench.expected[n_starts : n_starts + 2]


def test_limits_turn_the_sampler_away_and_survive_interruptions(bench: Bench, tmp_path: Path) -> None:
    limits = Limits(rate=0.4, kl=0.5)
    whole = bench.run(study_in(tmp_path), TRIALS, limits=limits)
    found = study_in(tmp_path).trials
    noted = [constraints_of(trial) for trial in found if trial.state == TrialState.COMPLETE]
    assert noted == [(s.rate - 0.4, (s.kl or 0.0) - 0.5) for s in whole]
    assert whole != bench.expected, "another sampler"
    (tmp_path / "parts").mkdir()
    for trials in range(1, TRIALS + 1, 4):
        bench.run(study_in(tmp_path / "parts"), trials, limits=limits)
    assert bench.run(study_in(tmp_path / "parts"), TRIALS, limits=limits) == whole


def constraints_of(trial: optuna.trial.FrozenTrial) -> tuple[float, ...]:
    return tuple(trial.system_attrs["constraints"])


def test_a_storage_that_cannot_be_used_says_so_and_keeps_its_trials(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the study cannot use sqlite:.*none"):
        open_study(f"sqlite:///{tmp_path / 'none' / 'study.db'}", IDENTITY)
    first = bench.run(study_in(tmp_path), 1)
    impatient = optuna.storages.RDBStorage(
        f"sqlite:///{tmp_path / 'study.db'}", engine_kwargs={"connect_args": {"timeout": 0.1}}
    )
    study = optuna.load_study(study_name="sombrero", storage=impatient)
    with sqlite3.connect(tmp_path / "study.db") as other:
        other.execute("BEGIN EXCLUSIVE")  # another program holds the file and does not let go
        with pytest.raises(RunError, match="database is locked"):
            bench.run(study, 2)
        other.rollback()
    assert bench.run(study_in(tmp_path), 2)[:1] == first
