"""Goal calibrate: three objectives, the pick, patience, the screening's correlation, points of an earlier run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sombrero.edits import EditPlanner, live_edit
from sombrero.errors import RunError, UsageError
from sombrero.evaluation import MarkerDetector, generate
from sombrero.records import EditParameters, Response, TrialScore, Verdict
from sombrero.search import (
    Constraints,
    SerialScorer,
    TrialBench,
    earlier_points,
    finished_scores,
    has_stalled,
    open_study,
    pareto_front,
    rank_finalists,
    run_study,
    screening_agreement,
)
from sombrero.search.front import may_enter_front
from sombrero.search.objective import count_lost, screen
from tests.planned import Planned, parameters
from tests.search.benches import MARKERS, make_bench, whole_space

N, N_TRUE = 20, 40
PARAMETERS = EditParameters("guarded", "single", None, (0,), {})


def score(number: int, refusals: int, kl: float, lost: int) -> TrialScore:
    """A generated trial of the goal calibrate."""
    return TrialScore(number, PARAMETERS, "generated", N, refusals, refusals, 0.0, kl, None, 0, N_TRUE, lost, lost)


def screened(number: int, predicted: int, kl: float, lost: int) -> TrialScore:
    """One that was only screened."""
    return replace(score(number, predicted, kl, lost), state="screened", refusals=None, lost=None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planned, TrialBench]:
    """A bench that moves the keys of some harmful prompts and keeps those of the others."""
    planned, bench = make_bench(tmp_path_factory.mktemp("calibrate") / "model")
    planner = EditPlanner(
        planned.handle, planned.writers, planned.directions, planned.harmful, planned.harmless, (), planned.harmful
    )
    responses = generate(bench.handle, bench.harmful, max_new_tokens=bench.max_new_tokens)
    refused = {r.prompt_id for r in responses if bench.detector.judge(r).label == "refusal"}
    true = [p for p in bench.harmful if p.prompt.id in refused]
    return planned, replace(bench, planner=planner, true=true)


def test_a_trial_that_keeps_more_true_refusals_stands_beside_a_cheaper_one() -> None:
    first, second, worse = score(0, 2, 0.1, 8), score(1, 2, 0.2, 1), score(2, 3, 0.2, 1)
    assert pareto_front((first, second, worse)) == (first, second)
    assert not may_enter_front(screened(3, N, 0.3, 39), (first, second))
    assert may_enter_front(screened(3, N, 0.05, 39), (first, second))


def test_the_pick_keeps_true_refusals_before_it_answers_false_ones() -> None:
    greedy, careful, costly = score(0, 0, 0.05, 12), score(1, 4, 0.06, 2), score(2, 2, 0.5, 0)
    asked = Constraints(0.05, 0.08, 0.95)
    assert [s.number for s in rank_finalists((greedy, careful, costly), asked)] == [1, 0, 2]
    assert not asked.met(careful) and asked.met(score(3, 1, 0.08, 2))
    assert Constraints(0.05, 0.08, 1.0).excess(score(4, 0, 0.01, 0)) <= 1


def test_patience_counts_generated_trials_that_leave_the_front_alone() -> None:
    scores = [score(0, 5, 0.1, 2), score(1, 6, 0.2, 2), score(2, 7, 0.2, 3)]
    assert has_stalled(scores, 2) and not has_stalled(scores, 3)
    assert not has_stalled([*scores, score(3, 4, 0.3, 2)], 2)
    assert not has_stalled([scores[0], screened(4, 9, 0.9, 9), screened(5, 9, 0.9, 9)], 1)


def test_the_correlation_is_that_of_ranks_over_generated_trials() -> None:
    scores = [
        replace(score(i, r, 0.1, 1), predicted_refusals=p, lost=i) for i, (r, p) in enumerate([(1, 2), (3, 5), (9, 6)])
    ]
    assert screening_agreement(scores).refusals == pytest.approx(1.0)
    assert screening_agreement([replace(s, predicted_refusals=-(s.refusals or 0)) for s in scores]).refusals == -1.0
    assert screening_agreement(scores[:2]).refusals is None
    assert screening_agreement(scores).lost is None, "the screening predicted the same number for all"


def test_lost_refusals_are_those_of_whole_answers(made: tuple[Planned, TrialBench]) -> None:
    _, bench = made
    point = parameters("guarded", strength=3.0)
    found = count_lost(bench, screen(bench, 0, point))
    with live_edit(bench.handle, bench.planner.writers, bench.planner.build(point)):
        whole = generate(bench.handle, bench.true, max_new_tokens=bench.max_new_tokens)
    assert found.lost == sum(bench.detector.judge(r).label != "refusal" for r in whole)
    assert (found.n_true, count_lost(bench, screen(bench, 0, parameters("guarded", strength=0.0))).lost) == (
        len(bench.true),
        0,
    )


def test_a_study_of_three_objectives_resumes_and_ends_by_patience(
    made: tuple[Planned, TrialBench], tmp_path: Path
) -> None:
    planned, bench = made
    space = replace(whole_space(planned), rules=("guarded",), goal="calibrate")

    def study(name: str):  # type: ignore[no-untyped-def]
        return open_study(f"sqlite:///{tmp_path / name}", "0" * 64, "calibrate")

    whole = run_study(study("a.db"), space, SerialScorer(bench), trials=9, seed=1)
    run_study(study("b.db"), space, SerialScorer(bench), trials=4, seed=1)
    continued = run_study(study("b.db"), space, SerialScorer(bench), trials=9, seed=1)
    assert continued == whole == finished_scores(study("b.db"))
    assert {s.n_true for s in whole} == {len(bench.true)}
    patient = run_study(study("c.db"), space, SerialScorer(bench), trials=9, seed=1, patience=1)
    assert patient == whole[: len(patient)]
    assert len(patient) == 9 or has_stalled(patient, 1)
    points = earlier_points(whole, space)
    first = run_study(study("d.db"), replace(space, first=points), SerialScorer(bench), trials=1, seed=5)
    assert first[0].parameters in [s.parameters for s in pareto_front(whole)]
    with pytest.raises(RunError, match="is a point of this search"):
        earlier_points(whole, replace(space, rules=("project",)))


def test_weights_out_of_range_are_an_error(made: tuple[Planned, TrialBench]) -> None:
    planner = made[1].planner
    with pytest.raises(UsageError, match="gamma 99"):
        planner.build(replace(parameters("guarded"), gamma=99.0))
    with pytest.raises(UsageError, match=r"strength 11\.0 .* not in 0..10"):
        planner.build(parameters("guarded", strength=11.0))


def test_what_nobody_could_judge_is_neither_kept_nor_lost(made: tuple[Planned, TrialBench]) -> None:
    _, bench = made

    class Unsure(MarkerDetector):
        unsure = (bench.true[0].prompt.id,)

        def judge(self, response: Response) -> Verdict:
            verdict = super().judge(response)
            return replace(verdict, label="unknown") if response.prompt_id in self.unsure else verdict

    class Silent(Unsure):
        unsure = tuple(rendered.prompt.id for rendered in bench.true)

    screened = screen(bench, 0, parameters("guarded", strength=3.0))
    found = count_lost(replace(bench, detector=Unsure(MARKERS)), screened)
    assert found.n_true == len(bench.true) - 1 and found.lost is not None and found.lost <= found.n_true
    assert count_lost(replace(bench, detector=Silent(MARKERS)), screened) == screened, "then the prediction stands"
