"""Workers: the exact budget, each trial once, and a death, an interrupt or another number of workers loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from sombrero.errors import RunError, UsageError
from sombrero.records import EditParameters, TrialScore
from sombrero.search import SerialScorer, TrialBench, WorkerPool, finished_scores, open_study, run_study
from sombrero.search.study import PLACE, SCORE
from tests.search.benches import WatchedPlanner, make_bench, whole_space

TRIALS = 8
IDENTITY = "0" * 64


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a worker has: sums of other threads round otherwise, and random states have near ties that a map turns on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fragile_bench(folder: Path) -> TrialBench:
    """A bench in a worker of its own. The first worker to start its second trial dies, and only that one."""
    planned, bench = make_bench(folder / str(os.getpid()))
    seen: set[str] = set()

    def die_once(number: int, parameters: EditParameters) -> None:
        seen.add(str(parameters))
        if len(seen) == 2 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return replace(bench, planner=WatchedPlanner(planned, die_once))  # type: ignore[arg-type]


def demanding_bench(folder: Path) -> TrialBench:
    """A bench whose planner refuses every edit, and says how many threads torch has here."""
    planned, bench = make_bench(folder / str(os.getpid()))

    def refuse(number: int, parameters: EditParameters) -> None:
        raise UsageError(f"no such edit, with {torch.get_num_threads()} threads")

    return replace(bench, planner=WatchedPlanner(planned, refuse))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_killed_worker_and_an_interrupted_run_leave_a_study_that_one_process_finishes(tmp_path: Path) -> None:
    planned, bench = make_bench(tmp_path / "model")
    space, storage = whole_space(planned), f"sqlite:///{tmp_path / 'study.db'}"
    seen: list[TrialScore] = []

    def interrupt(score: TrialScore, scores: tuple[TrialScore, ...]) -> None:
        seen.append(score)
        assert scores == tuple(seen)
        if len(scores) == TRIALS - 2:
            raise KeyboardInterrupt

    pool = WorkerPool(partial(fragile_bench, tmp_path), 2, len(bench.harmful))
    with pytest.raises(KeyboardInterrupt):
        run_study(open_study(storage, IDENTITY), space, pool, trials=TRIALS, seed=3, on_trial=interrupt)
    assert multiprocessing.active_children() == []
    failed = [score for score in seen if score.state == "failed"]
    assert len(failed) == 1 and failed[0].n == len(bench.harmful)
    assert "the worker process that scored it died: killed by SIGKILL" in str(failed[0].error)

    scores = run_study(open_study(storage, IDENTITY), space, SerialScorer(bench), trials=TRIALS, seed=3)
    study = open_study(storage, IDENTITY)
    assert scores[: len(seen)] == tuple(seen) and finished_scores(study) == scores
    assert [score.number for score in scores] == list(range(TRIALS))
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    kept = [trial.user_attrs for trial in study.trials if SCORE in trial.user_attrs]
    assert sorted(found.get(PLACE, found[SCORE]["number"]) for found in kept) == list(range(TRIALS))
    # so none of the points that every search starts from was left out or tried twice
    assert len({str(score.parameters) for score in scores}) == TRIALS


@pytest.mark.slow
def test_two_workers_keep_to_the_budget_and_score_as_one_process_does(tmp_path: Path, one_thread: None) -> None:
    planned, bench = make_bench(tmp_path / "model")
    space = whole_space(planned)
    (tmp_path / "died").touch()
    pool = WorkerPool(partial(fragile_bench, tmp_path), 2, len(bench.harmful))
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", IDENTITY)
    scores = run_study(study, space, pool, trials=5, seed=3)
    assert [score.number for score in scores] == list(range(5)) and finished_scores(study) == scores
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5
    alone = open_study(f"sqlite:///{tmp_path / 'alone.db'}", IDENTITY)
    expected = run_study(alone, space, SerialScorer(bench), trials=5, seed=3)  # points that every search starts from
    assert {str(score.parameters) for score in scores} == {str(score.parameters) for score in expected}
    by_edit = {str(score.parameters): score for score in expected}
    assert [score.kl for score in scores] == [pytest.approx(by_edit[str(s.parameters)].kl, abs=1e-6) for s in scores]


def test_workers_that_die_one_after_another_end_the_study_with_a_word(tmp_path: Path) -> None:
    planned, _ = make_bench(tmp_path / "model")
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", IDENTITY)
    pool = WorkerPool(partial(os._exit, 7), 3, 12)
    with pytest.raises(RunError, match=r"3 worker processes died in a row.*exit code 7.*Each of the 3.*--workers"):
        run_study(study, whole_space(planned), pool, trials=TRIALS, seed=3)
    assert study.trials == [], "a point is asked for when a worker can score it"
    assert multiprocessing.active_children() == []


def test_what_a_worker_refuses_is_refused_by_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, _ = make_bench(tmp_path / "model")
    study = open_study(f"sqlite:///{tmp_path / 'study.db'}", IDENTITY)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    pool = WorkerPool(partial(demanding_bench, tmp_path), 2, 12)
    with pytest.raises(UsageError, match="no such edit, with 3 threads"):
        run_study(study, whole_space(planned), pool, trials=1, seed=3)
    assert multiprocessing.active_children() == []
