"""How well the screening ranks trials: its rank correlation with what full answers gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import spearmanr

from sombrero.records import TrialScore

FEWEST = 3
"""Trials that a rank correlation says anything of."""


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlations over the ``n`` generated trials; None with fewer than FEWEST, or without variance.

    refusals: predicted refusals with the rate of full answers that refuse, deflect or are broken; log_odds: the mean
    log-odds of the first token with the same; lost: predicted with counted true refusals lost, by the goal
    ``calibrate``.
    """

    n: int
    refusals: float | None
    log_odds: float | None
    lost: float | None


def screening_agreement(scores: Sequence[TrialScore]) -> Agreement:
    """The correlations of a study. Only trials that passed the screening have full scores, so it is a lower bound."""
    generated = [s for s in scores if s.state == "generated"]
    rates = [s.rate for s in generated]
    lost = [(s.predicted_lost, s.lost) for s in generated if s.n_true]
    return Agreement(
        n=len(generated),
        refusals=_spearman([s.predicted_refusals for s in generated], rates),
        log_odds=_spearman([s.log_odds for s in generated], rates),
        lost=_spearman([a for a, _ in lost], [b for _, b in lost]),
    )


def _spearman(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(pairs) < FEWEST or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)
