"""The Pareto front of a study, the screening decision, and the rule that picks one edit."""

from __future__ import annotations

from collections.abc import Sequence

from sombrero.records import TrialScore

PREDICTION_MARGIN = 0.1
"""The screening may be wrong by this share of the prompts, until the study itself shows more."""


def pareto_front(scores: Sequence[TrialScore]) -> tuple[TrialScore, ...]:
    """Generated trials that no other one beats on refusals and KL together, by falling refusals."""
    generated = [s for s in scores if s.state == "generated"]
    front = [s for s in generated if not any(other.dominates(s) for other in generated)]
    return tuple(sorted(front, key=lambda s: (-s.rate, _kl(s), s.number)))


def may_enter_front(candidate: TrialScore, scores: Sequence[TrialScore]) -> bool:
    """Whether a screened candidate could still enter the front, if its prediction is as wrong as any was so far."""
    generated = [s for s in scores if s.state == "generated"]
    predicted = (candidate.predicted_refusals or 0) / candidate.n
    hopeful = max(0.0, predicted - prediction_margin(generated))
    return not any(s.rate <= hopeful and _kl(s) <= _kl(candidate) for s in generated)


def beaten_at(candidate: TrialScore, scores: Sequence[TrialScore]) -> int | None:
    """The number of refusals at which a generated trial with no larger KL beats the candidate; None without one."""
    rivals = [s.refusals for s in scores if s.refusals is not None and _kl(s) <= _kl(candidate)]
    return min(rivals, default=None)


def prediction_margin(generated: Sequence[TrialScore]) -> float:
    """By how much (a share of the prompts) the screening has overestimated refusals; at least PREDICTION_MARGIN."""
    errors = [(s.predicted_refusals or 0) / s.n - s.rate for s in generated]
    return max([PREDICTION_MARGIN, *errors])


def rank_finalists(scores: Sequence[TrialScore], target_rate: float, max_kl: float) -> tuple[TrialScore, ...]:
    """The front, best first. Trials within ``max_kl`` come before all others.

    Of these, the lowest KL among those within the target rate of refusals; where there is none, the fewest refusals.
    Trials beyond ``max_kl`` follow by rising KL.
    """

    def order(score: TrialScore) -> tuple[float, float, float, int]:
        if _kl(score) > max_kl:
            return (2.0, _kl(score), score.rate, score.number)
        if score.rate <= target_rate:
            return (0.0, _kl(score), score.rate, score.number)
        return (1.0, score.rate, _kl(score), score.number)

    return tuple(sorted(pareto_front(scores), key=order))


def _kl(score: TrialScore) -> float:
    return float("inf") if score.kl is None else score.kl
