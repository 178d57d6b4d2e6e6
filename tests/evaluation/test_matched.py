"""Interpolation along a front and its paired bootstrap, as properties."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sombrero.errors import UsageError
from sombrero.evaluation import (
    Matched,
    MeasuredFront,
    choose_measured,
    front_weights,
    interpolate,
    matched_values,
    paired_interval,
    resample_matched,
)

POINTS = st.lists(st.tuples(st.integers(0, 20), st.floats(0, 5)), min_size=1, max_size=8)
LEVELS = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6).map(sorted)


def columns(points: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    return [count / 20 for count, _ in points], [cost for _, cost in points]


@given(POINTS, LEVELS)
def test_the_interpolated_cost_lies_between_its_neighbours_and_falls_with_the_rate(
    points: list[tuple[int, float]], levels: list[float]
) -> None:
    rates, costs = columns(points)
    weights = front_weights(rates, costs, levels)
    values = interpolate(weights, costs)
    for level, row, value in zip(levels, weights, values, strict=True):
        if math.isnan(value):
            continue
        assert row.sum() == pytest.approx(1) and (row >= 0).all() and (row > 0).sum() <= 2
        assert float(row @ np.array(rates)) == pytest.approx(level)
        used = [costs[i] for i in np.flatnonzero(row)]
        assert min(used) - 1e-9 <= value <= max(used) + 1e-9
        at_most = [cost for rate, cost in zip(rates, costs, strict=True) if rate <= level]
        assert value <= min(at_most) + 1e-9  # no dearer than the cheapest point with at most so many refusals
    reached = [value for value in values if not math.isnan(value)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(reached))


@given(POINTS, LEVELS, st.randoms(use_true_random=False))
def test_neither_order_nor_beaten_points_change_the_front(
    points: list[tuple[int, float]], levels: list[float], random: object
) -> None:
    found = interpolate(front_weights(*columns(points), levels), columns(points)[1])
    more = [*points, *((count + 1, cost + 1) for count, cost in points[:1])]
    random.shuffle(more)  # type: ignore[attr-defined]
    again = interpolate(front_weights(*columns(more), levels), columns(more)[1])
    assert np.allclose(found, again, equal_nan=True)


@given(POINTS)
def test_nothing_is_extrapolated(points: list[tuple[int, float]]) -> None:
    rates, costs = columns(points)
    outside = [min(rates) - 0.01, max(rates) + 0.01]
    assert np.isnan(front_weights(rates, costs, outside)).all()
    assert not np.isnan(front_weights(rates, costs, [min(rates)])).any()


def test_a_point_on_the_level_is_taken_as_it_is() -> None:
    weights = front_weights([0.9, 0.5, 0.1], [0.0, 0.2, 0.6], [0.5, 0.3, 0.05])
    assert weights[0].tolist() == [0, 1, 0]
    assert weights[1].tolist() == pytest.approx([0, 0.5, 0.5])
    assert np.isnan(weights[2]).all()


@pytest.mark.parametrize(
    ("rates", "levels", "most", "expected"),
    [
        ([0.9, 0.5, 0.2, 0.05, 0.0], [0.1], 2, [0.05, 0.2]),
        ([0.9, 0.5, 0.2, 0.05, 0.0], [0.1], 3, [0.0, 0.05, 0.2]),
        ([0.9, 0.5, 0.2, 0.05, 0.0], [0.1, 0.6], 4, [0.0, 0.05, 0.2, 0.5]),
        ([0.9, 0.5], [0.1], 3, [0.5, 0.9]),  # not reached: what comes closest
        ([0.0], [0.1], 3, [0.0]),
        ([], [0.1], 3, []),
    ],
)
def test_trials_around_the_levels_are_measured(
    rates: list[float], levels: list[float], most: int, expected: list[float]
) -> None:
    assert [rates[i] for i in choose_measured(rates, levels, most)] == expected


def synthetic(
    random: np.random.RandomState, costs: tuple[float, float], noise: np.ndarray, prompts: np.ndarray
) -> MeasuredFront:
    """An untouched model that refuses 90%, and edits that refuse 40% and 5%: true KL at 22.5% is the mean of the two.

    noise ``(n_harmless,)`` and prompts ``(n_harmful,)`` in 0..1 are shared by methods: paired prompts.
    """
    rates = (0.9, 0.4, 0.05)
    own = random.uniform(0.8, 1.2, (3, len(noise)))
    first = np.array([0.0, *costs])[:, None] * noise * own
    return MeasuredFront(np.array([(prompts < rate).astype(float) for rate in rates]), first, first / 10)


def draw(random: np.random.RandomState, n_seeds: int, shift: float) -> dict[str, list[MeasuredFront]]:
    noise, prompts = random.exponential(1.0, 80), random.uniform(0, 1, 80)
    return {
        "som": [synthetic(random, (0.05 + shift, 0.15 + shift), noise, prompts) for _ in range(n_seeds)],
        "single": [synthetic(random, (0.05, 0.15), noise, prompts) for _ in range(n_seeds)],
    }


@pytest.mark.parametrize(("n_seeds", "shift"), [(1, 0.0), (3, -0.02)])
def test_the_interval_covers_a_known_truth(n_seeds: int, shift: float) -> None:
    """Nominally 95 of 100; one seed's interval speaks of prompts alone, and is held to it here with its own noise."""
    random, covered, runs = np.random.RandomState(3), 0, 100
    for _ in range(runs):
        draws = resample_matched(draw(random, n_seeds, shift), [0.225], resamples=200, seed=1)
        low, high = paired_interval(draws["som"].first_token[..., 0], draws["single"].first_token[..., 0])
        covered += low <= shift <= high
    assert covered >= 88


def test_pairing_by_prompt_makes_the_interval_narrower() -> None:
    random = np.random.RandomState(0)
    paired = draw(random, 2, 0.0)
    other = draw(random, 2, 0.0)
    widths = []
    for control in (paired["single"], other["single"]):
        draws = resample_matched({"som": paired["som"], "single": control}, [0.225], resamples=400, seed=1)
        low, high = paired_interval(draws["som"].first_token[..., 0], draws["single"].first_token[..., 0])
        widths.append(high - low)
    assert widths[0] < 0.6 * widths[1]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_the_difference_is_antisymmetric(seed: int, n_lost: int) -> None:
    random = np.random.RandomState(seed)
    one, other = random.normal(size=(200, 2)), random.normal(size=(200, 2))
    one[random.randint(200, size=3 * n_lost)] = np.nan
    low, high = paired_interval(one, other)
    assert paired_interval(other, one) == (-high, -low)
    assert low <= high


def test_a_level_that_one_side_does_not_reach_leaves_that_end_open() -> None:
    one, other = np.full((100, 1), 0.1), np.full((100, 1), 0.2)
    assert paired_interval(one, other) == pytest.approx((-0.1, -0.1))
    one[:5] = np.nan  # the map needs an unbounded KL in 5 of 100
    assert paired_interval(one, other) == (pytest.approx(-0.1), math.inf)
    other[:] = np.nan
    assert paired_interval(np.full((100, 1), 0.1), other) == (-math.inf, -math.inf)
    assert paired_interval(np.full((100, 1), np.nan), other) == (-math.inf, math.inf)
    mixed = np.array([[np.nan, 0.1]] * 100)
    assert paired_interval(mixed, mixed[:, ::-1]) == (-math.inf, math.inf)


def test_equal_fronts_do_not_differ_and_the_draws_repeat() -> None:
    fronts = draw(np.random.RandomState(5), 2, 0.0)
    same = {"som": fronts["som"], "single": fronts["som"]}
    draws = [resample_matched(same, [0.225, 0.6], resamples=200, seed=4) for _ in range(2)]
    for place in range(2):
        assert paired_interval(draws[0]["som"].sequence[..., place], draws[0]["single"].sequence[..., place]) == (0, 0)
    assert isinstance(draws[0]["som"], Matched)
    assert np.array_equal(draws[0]["som"].first_token, draws[1]["som"].first_token)
    first, sequence, _ = matched_values(fronts["som"][0], [0.225])
    assert sequence == pytest.approx(first / 10)


def test_fronts_of_other_prompts_cannot_be_paired() -> None:
    fronts = draw(np.random.RandomState(5), 1, 0.0)
    short = MeasuredFront(*(part[:, :-1] for part in (
        fronts["som"][0].unanswered, fronts["som"][0].first_token, fronts["som"][0].sequence)))  # fmt: skip
    with pytest.raises(UsageError, match="cannot be paired"):
        resample_matched({"som": fronts["som"], "single": [short]}, [0.2], resamples=10, seed=0)
