"""Counts with their uncertainty."""

from __future__ import annotations

import math

from sombrero.errors import UsageError
from sombrero.records import Proportion

Z_95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""


def wilson(count: int, n: int) -> Proportion:
    """``count`` of ``n`` with the Wilson score interval at 95% (Wilson 1927), without continuity correction.

    Raises UsageError when n is 0 or count lies outside 0..n.
    """
    if n < 1:
        raise UsageError(f"a proportion of {n} responses is not defined; measure at least one prompt")
    if not 0 <= count <= n:
        raise UsageError(f"a count of {count} among {n} is impossible; it must lie in 0..{n}")
    rate = count / n
    scale = 1 + Z_95**2 / n
    centre = (rate + Z_95**2 / (2 * n)) / scale
    half = Z_95 * math.sqrt(rate * (1 - rate) / n + Z_95**2 / (4 * n**2)) / scale
    # at 0 and n the formula's own bound is exactly 0 and 1; rounding must not push it past them
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == n else centre + half
    return Proportion(count, n, low, high)
