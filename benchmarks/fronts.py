"""Trials of a search, its front of refusals and KL, and what two fronts say of each other. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Trial:
    """One trial. kl: first-token, nats. seconds: how long it took. at: when it ended, in seconds since the tool began.

    refusals is None for a trial that was screened out by one forward pass.
    """

    number: int
    refusals: int | None
    kl: float
    seconds: float
    at: float


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Generated trials that no other beats on both counts, by rising refusals."""
    best: list[Trial] = []
    for trial in sorted((t for t in trials if t.refusals is not None), key=lambda t: (t.refusals, t.kl, t.number)):
        if not best or trial.kl < best[-1].kl:
            best.append(trial)
    return best


def kl_at(trials: Sequence[Trial], refusals: float) -> float | None:
    """The front's KL at a number of refusals, on straight lines between its trials.

    Beyond the trial with the most refusals the front stays level: more refusals need no more KL. None below the one
    with the fewest: nothing is extrapolated.
    """
    points = [(float(t.refusals or 0), t.kl) for t in front(trials)]
    if not points or refusals < points[0][0]:
        return None
    for (low, high_kl), (high, low_kl) in pairwise(points):
        if refusals <= high:
            share = (refusals - low) / (high - low)
            return high_kl + share * (low_kl - high_kl)
    return points[-1][1]


def seconds_to_match(trials: Sequence[Trial], point: Trial) -> float | None:
    """When some trial was at least as good as a rival's on both counts; None if never."""
    allowed = point.refusals or 0
    times = [t.at for t in trials if t.refusals is not None and t.refusals <= allowed and t.kl <= point.kl]
    return min(times, default=None)


def seconds_to_cover(trials: Sequence[Trial], rival: Sequence[Trial]) -> float | None:
    """When that was so for each trial of the rival's front; None if never."""
    reached = [seconds_to_match(trials, point) for point in front(rival)]
    found = [seconds for seconds in reached if seconds is not None]
    return max(found) if found and len(found) == len(reached) else None


def chosen(trials: Sequence[Trial], allowed: int) -> Trial:
    """The least KL among trials with at most so many refusals; where there is none, the fewest refusals."""
    points = front(trials)
    if not points:
        raise ValueError("no trial was generated for")
    within = [t for t in points if (t.refusals or 0) <= allowed]
    return min(within, key=lambda t: t.kl) if within else points[0]
