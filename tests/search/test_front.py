"""The front, the screening decision, and the rule that picks one edit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sombrero.records import EditParameters, TrialScore
from sombrero.search import Constraints, pareto_front, rank_finalists
from sombrero.search.front import PREDICTION_MARGIN, may_enter_front, prediction_margin

N = 20
PARAMETERS = EditParameters("guarded", "single", None, (0,), {})
counts = st.integers(0, N)
kls = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.5, 2.0, float("inf")])  # few values, so that ties are common


def score(
    number: int, refusals: int | None = None, kl: float | None = None, predicted: int | None = None
) -> TrialScore:
    """A trial that was generated for, or screened when ``refusals`` is None."""
    state = "screened" if refusals is None else "generated"
    return TrialScore(number, PARAMETERS, state, N, refusals, predicted, 0.0, kl)


@st.composite
def studies(draw: st.DrawFn) -> tuple[TrialScore, ...]:
    """Trials of all three states, numbered."""
    states = draw(st.lists(st.sampled_from(["generated", "generated", "screened", "failed"]), max_size=15))
    found = []
    for number, state in enumerate(states):
        if state == "failed":
            found.append(TrialScore(number, PARAMETERS, "failed", N, error="no"))
        else:
            refusals = draw(counts) if state == "generated" else None
            found.append(score(number, refusals, draw(kls), draw(counts)))
    return tuple(found)


def beats(a: TrialScore, b: TrialScore) -> bool:
    """At least as good on both counts, and better on one."""
    assert a.kl is not None and b.kl is not None
    return a.rate <= b.rate and a.kl <= b.kl and (a.rate, a.kl) != (b.rate, b.kl)


@given(studies())
def test_nobody_beats_the_front_and_the_front_beats_everybody_else(scores: tuple[TrialScore, ...]) -> None:
    front = pareto_front(scores)
    generated = [s for s in scores if s.state == "generated"]
    assert {s.number for s in front} <= {s.number for s in generated}
    assert not [s for s in front if any(beats(other, s) for other in generated)]
    for s in generated:
        if s not in front:
            assert any(beats(f, s) or (f.rate, f.kl) == (s.rate, s.kl) for f in front)
    points = [(s.rate, s.kl) for s in front]
    assert len(set(points)) == len(points)
    assert bool(front) == bool(generated)


@given(studies())
def test_along_the_front_refusals_fall_and_kl_rises(scores: tuple[TrialScore, ...]) -> None:
    front = pareto_front(scores)
    assert [s.rate for s in front] == sorted((s.rate for s in front), reverse=True)
    assert [s.kl for s in front] == sorted(s.kl for s in front if s.kl is not None)


@given(studies(), counts, kls, counts)
def test_what_is_screened_out_could_not_have_entered(
    scores: tuple[TrialScore, ...], predicted: int, kl: float, refusals: int
) -> None:
    """Whatever it would have refused, as long as the screening is no more wrong than it was so far."""
    candidate = score(len(scores), None, kl, predicted)
    margin = prediction_margin([s for s in scores if s.state == "generated"])
    if may_enter_front(candidate, scores) or refusals / N < predicted / N - margin:
        return
    completed = replace(candidate, state="generated", refusals=refusals)
    assert pareto_front((*scores, completed)) == pareto_front(scores)


@given(studies(), kls)
def test_a_perfect_prediction_is_generated_for_unless_it_is_matched(scores: tuple[TrialScore, ...], kl: float) -> None:
    candidate = score(len(scores), None, kl, 0)
    matched = any(s.state == "generated" and s.rate == 0 and s.kl is not None and s.kl <= kl for s in scores)
    assert may_enter_front(candidate, scores) == (not matched)


def test_the_first_candidate_may_always_enter() -> None:
    assert may_enter_front(score(0, None, float("inf"), N), ())


@given(studies())
def test_the_margin_covers_every_overestimate_so_far(scores: tuple[TrialScore, ...]) -> None:
    generated = [s for s in scores if s.state == "generated"]
    margin = prediction_margin(generated)
    assert margin >= PREDICTION_MARGIN
    assert all((s.predicted_refusals or 0) / N - s.rate <= margin for s in generated)
    assert margin == PREDICTION_MARGIN or any((s.predicted_refusals or 0) / N - s.rate == margin for s in generated)


@given(studies(), st.floats(0, 1), st.floats(0.01, 3))
def test_the_pick_is_the_cheapest_within_the_target_else_the_one_that_refuses_least(
    scores: tuple[TrialScore, ...], target: float, max_kl: float
) -> None:
    ranked = rank_finalists(scores, Constraints(target, max_kl))
    assert sorted(s.number for s in ranked) == sorted(s.number for s in pareto_front(scores))
    generated = [s for s in scores if s.state == "generated" and s.kl is not None]
    if not generated:
        assert ranked == ()
        return
    bounded = [s for s in generated if s.kl is not None and s.kl <= max_kl]
    within = [s for s in bounded if s.rate <= target]
    if within:
        assert ranked[0].rate <= target
        assert ranked[0].kl == min(s.kl for s in within if s.kl is not None)
    elif bounded:
        assert ranked[0].kl is not None and ranked[0].kl <= max_kl
        assert ranked[0].rate == min(s.rate for s in bounded)
    else:
        assert ranked[0].kl == min(s.kl for s in generated if s.kl is not None)


@given(studies(), st.floats(0, 1), st.randoms(use_true_random=False))
def test_the_order_of_the_trials_does_not_matter(scores: tuple[TrialScore, ...], target: float, random: object) -> None:
    shuffled = list(scores)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    limits = Constraints(target, 0.5)
    assert pareto_front(shuffled) == pareto_front(scores)
    assert rank_finalists(shuffled, limits) == rank_finalists(scores, limits)


@pytest.mark.parametrize(
    ("refusals", "predicted", "rate"), [(3, 9, 3 / N), (0, 9, 0.0), (None, 9, 9 / N), (None, None, 1.0)]
)
def test_a_measured_rate_comes_before_a_predicted_one(refusals: int | None, predicted: int | None, rate: float) -> None:
    assert score(0, refusals, 0.1, predicted).rate == rate
