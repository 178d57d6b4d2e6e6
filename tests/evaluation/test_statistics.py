"""Wilson's interval against its defining equation and published values."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest

from sombrero.errors import UsageError
from sombrero.evaluation import wilson
from sombrero.evaluation.statistics import Z_95


@pytest.mark.parametrize(
    ("count", "n"), [(0, 1), (1, 1), (0, 64), (64, 64), (5, 128), (81, 125), (97, 100), (1, 10_000)]
)
def test_wilson_equals_scipy(count: int, n: int) -> None:
    expected = binomtest(count, n).proportion_ci(confidence_level=0.95, method="wilson")
    found = wilson(count, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.rate == count / n
    assert 0.0 <= found.low <= found.rate <= found.high <= 1.0


@pytest.mark.parametrize(("count", "n", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)])
def test_published_values(count: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, table I, method 3 (score without continuity correction)."""
    found = wilson(count, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_the_bounds_solve_the_score_equation() -> None:
    found = wilson(7, 40)
    for bound in (found.low, found.high):
        assert abs(found.rate - bound) == pytest.approx(Z_95 * math.sqrt(bound * (1 - bound) / 40))


@pytest.mark.parametrize(("count", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_errors(count: int, n: int) -> None:
    with pytest.raises(UsageError):
        wilson(count, n)
