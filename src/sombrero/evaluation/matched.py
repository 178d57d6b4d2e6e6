"""Edits compared at equal refusal rates: interpolation along a front, and its paired bootstrap. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sombrero.errors import UsageError

Array = npt.NDArray[np.float64]

LOW, HIGH = 0.025, 0.975


@dataclass(frozen=True)
class MeasuredFront:
    """Some models on one set of prompts, a row each; the first row is the untouched model.

    unanswered ``(P, n_harmful)``: 1 where a harmful prompt was refused or not answered (partial, broken).
    first_token, sequence ``(P, n_harmless)``: KL(base || edited) in nats.
    """

    unanswered: Array
    first_token: Array
    sequence: Array


@dataclass(frozen=True)
class Matched:
    """KL at matched levels, ``(B, S, n_levels)`` for B resamples and S seeds; NaN where a level was not reached."""

    first_token: Array
    sequence: Array


def front_weights(rates: npt.ArrayLike, costs: npt.ArrayLike, levels: Sequence[float]) -> Array:
    """Weights ``(n_levels, P)`` over P points with which their mean rate is the level, at the least cost.

    Points that another one beats on rate and cost together are left out; between two neighbours of the rest the weight
    is linear in the rate. So any figure of the points, weighted, is interpolated along the front: it is what tossing a
    coin between two neighbouring edits gives on average. A row is NaN where the level lies outside the front's rates:
    nothing is extrapolated.
    """
    rate, cost = np.asarray(rates, float), np.asarray(costs, float)
    kept: list[int] = []
    for i in np.lexsort((cost, rate)):
        if not kept or cost[i] < cost[kept[-1]]:
            kept.append(int(i))
    weights = np.zeros((len(levels), len(rate)))
    front = rate[kept]
    for row, level in zip(weights, levels, strict=True):
        if not front[0] <= level <= front[-1]:
            row[:] = np.nan
            continue
        above = int(np.searchsorted(front, level))
        if front[above] == level:
            row[kept[above]] = 1.0
            continue
        share = (level - front[above - 1]) / (front[above] - front[above - 1])
        row[kept[above - 1]], row[kept[above]] = 1.0 - share, share
    return weights


def interpolate(weights: Array, values: npt.ArrayLike) -> Array:
    """Figures ``(P,)`` of the points at the levels of ``weights`` ``(n_levels, P)``; NaN where it was not reached."""
    found: Array = weights @ np.asarray(values, float)
    return found


def choose_measured(rates: Sequence[float], levels: Sequence[float], most: int) -> tuple[int, ...]:
    """Which points of a front to measure again, at most ``most``, as indices by rising rate.

    The first level's neighbours come first, then the point of the lowest rate, as unseen prompts are refused more often
    than those that an edit was picked on; then the neighbours of the other levels, then the others by their distance
    to the first level.
    """

    def neighbours(level: float) -> list[int]:
        below = [i for i in order if rates[i] <= level][-1:]
        return below + [i for i in order if rates[i] > level][:1]

    order = sorted(range(len(rates)), key=lambda i: (rates[i], i))
    near = sorted(order, key=lambda i: abs(rates[i] - levels[0]))
    wanted = [*neighbours(levels[0]), *order[:1], *(i for level in levels[1:] for i in neighbours(level)), *near]
    chosen = list(dict.fromkeys(wanted))[:most]
    return tuple(sorted(chosen, key=lambda i: (rates[i], i)))


def matched_values(front: MeasuredFront, levels: Sequence[float]) -> tuple[Array, Array, Array]:
    """First-token and sequence KL at each level, ``(n_levels,)`` each, and the :func:`front_weights` behind them."""
    first, sequence = front.first_token.mean(axis=1), front.sequence.mean(axis=1)
    weights = front_weights(front.unanswered.mean(axis=1), first, levels)
    return interpolate(weights, first), interpolate(weights, sequence), weights


def resample_matched(
    fronts: Mapping[str, Sequence[MeasuredFront]], levels: Sequence[float], *, resamples: int, seed: int
) -> dict[str, Matched]:
    """KL of every method at matched levels, for resamples of the prompts and of the seeds.

    ``fronts`` holds for each method one front a seed, all on the same prompts. Harmful and harmless prompts are drawn
    with replacement, the same draws for all methods and seeds; so are the seeds, the same for all methods (the crossed
    bootstrap of Owen 2007, "The pigeonhole bootstrap"). In every resample the front is found and interpolated anew, so
    the uncertainty of the refusals is in the result as that of the KL is.

    Raises UsageError when the fronts are not of the same prompts and number of seeds.
    """
    shapes = {(f.unanswered.shape[1], f.first_token.shape[1]) for rows in fronts.values() for f in rows}
    counts = {len(rows) for rows in fronts.values()}
    if len(shapes) != 1 or len(counts) != 1:
        raise UsageError(
            f"fronts of {sorted(shapes)} prompts and {sorted(counts)} seeds cannot be paired; measure every method on "
            "the same prompts and seeds"
        )
    (n_harmful, n_harmless), n_seeds = shapes.pop(), counts.pop()
    random = np.random.RandomState(seed)
    harmful, harmless = (random.multinomial(n, np.full(n, 1 / n), size=resamples) / n for n in (n_harmful, n_harmless))
    drawn = random.randint(n_seeds, size=(resamples, n_seeds))
    found = {}
    for method, rows in fronts.items():
        both = [_resampled(front, levels, harmful, harmless) for front in rows]
        first, sequence = (np.stack(parts, axis=1) for parts in zip(*both, strict=True))
        found[method] = Matched(*(np.take_along_axis(v, drawn[..., None], axis=1) for v in (first, sequence)))
    return found


def paired_interval(one: Array, other: Array) -> tuple[float, float]:
    """The percentile 95% interval of ``one − other``, ``(B, S)`` each: paired resamples, averaged over seeds.

    Where one of the two does not reach the level (NaN), it would need an unbounded KL: the difference is infinite.
    Where neither does, or one does not for one seed and the other not for another, nothing is known, and the resample
    counts on either side. So an end is infinite when more than 2.5% of the resamples leave that side open.
    """
    lost, won = np.isnan(one), np.isnan(other)
    each = np.where(lost & ~won, np.inf, np.where(won & ~lost, -np.inf, one - other))
    with np.errstate(invalid="ignore"):  # inf − inf: nothing is known
        mean = each.mean(axis=1)
    low, high = (
        np.sort(np.nan_to_num(mean, nan=-np.inf, posinf=np.inf, neginf=-np.inf)),
        np.sort(np.nan_to_num(mean, nan=np.inf, posinf=np.inf, neginf=-np.inf)),
    )
    n = len(mean)
    # whole resamples, not points between them: an infinite one has no middle
    return float(low[int(np.floor(LOW * (n - 1)))]), float(high[int(np.ceil(HIGH * (n - 1)))])


def _resampled(front: MeasuredFront, levels: Sequence[float], harmful: Array, harmless: Array) -> tuple[Array, Array]:
    """First-token and sequence KL ``(B, n_levels)`` of one front, for draws ``(B, n)`` that sum to 1."""
    rates, first = harmful @ front.unanswered.T, harmless @ front.first_token.T
    sequence = harmless @ front.sequence.T
    weights = np.stack([front_weights(r, c, levels) for r, c in zip(rates, first, strict=True)])
    return np.einsum("blp,bp->bl", weights, first), np.einsum("blp,bp->bl", weights, sequence)
