"""Counts, means and paired comparisons with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sombrero.errors import UsageError
from sombrero.records import PairedRefusals, Proportion, Spread

Z_95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""
RESAMPLES = 2000
"""Bootstrap resamples: the ends of a 95% interval then rest on 50 of them each."""
RESAMPLES_AT_ONCE = 100
"""Resamples drawn at a time: 10,000 prompts then take 8 MB."""
BOOTSTRAP_SEED = 0


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


def bootstrap_mean(
    values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = BOOTSTRAP_SEED
) -> tuple[float, float] | None:
    """The percentile bootstrap 95% interval of the mean (Efron and Tibshirani 1993, §13.3); the seed decides it.

    None where the values say nothing of it: fewer than two, or one that is not finite. Raises UsageError without any.
    """
    from scipy.stats import bootstrap

    if not values:
        raise UsageError("there are no values to take a mean of; measure at least one prompt")
    sample = np.asarray(values, float)
    if len(sample) < 2 or not np.isfinite(sample).all():
        return None
    found = bootstrap(
        (sample,),
        np.mean,
        n_resamples=resamples,
        batch=RESAMPLES_AT_ONCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def summarize_values(values: Sequence[float], *, seed: int = BOOTSTRAP_SEED) -> Spread:
    """Quantiles and the interval of the mean; values may be infinite, not NaN. Raises UsageError without any."""
    interval = bootstrap_mean(values, seed=seed)
    low, high = (None, None) if interval is None else interval
    sample = np.asarray(values, float)
    median, q90, q95 = (_quantile(sample, share) for share in (0.5, 0.9, 0.95))
    return Spread(median, q90, q95, low, high, int(np.isinf(sample).sum()))


def compare_refusals(base: Sequence[bool], edited: Sequence[bool], *, seed: int = BOOTSTRAP_SEED) -> PairedRefusals:
    """Whether two models refuse the same prompts, in the same order.

    McNemar's test in its exact form: of the discordant prompts, those that one model alone refuses are binomial with
    share 1/2 if the models are alike (McNemar 1947; exact, Fay 2010, "Two-sided exact tests"). Without any discordant
    prompt p is 1. The interval is the bootstrap of the prompts' differences, so pairs stay together.

    Raises UsageError when the numbers of prompts differ, or there is none.
    """
    from scipy.stats import binomtest

    if len(base) != len(edited) or not base:
        raise UsageError(
            f"{len(base)} verdicts of the base and {len(edited)} of the edited model cannot be paired; measure both on "
            "the same prompts, at least one"
        )
    pairs = [(bool(one), bool(other)) for one, other in zip(base, edited, strict=True)]
    base_only, edited_only = pairs.count((True, False)), pairs.count((False, True))
    discordant = base_only + edited_only
    differences = [float(other) - float(one) for one, other in pairs]
    low, high = bootstrap_mean(differences, seed=seed) or (None, None)
    return PairedRefusals(
        both=pairs.count((True, True)),
        base_only=base_only,
        edited_only=edited_only,
        neither=pairs.count((False, False)),
        difference=(edited_only - base_only) / len(pairs),
        low=low,
        high=high,
        p_value=float(binomtest(base_only, discordant, 0.5).pvalue) if discordant else 1.0,
    )


def _quantile(sample: np.ndarray[tuple[int], np.dtype[np.float64]], share: float) -> float:
    """Linear between the two neighbours; between a finite and an infinite one there is no line, only infinity."""
    below, above = (float(np.quantile(sample, share, method=side)) for side in ("lower", "higher"))
    if math.isinf(above):
        return below if math.isinf(below) else math.inf
    return float(np.quantile(sample, share))
