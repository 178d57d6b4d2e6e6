"""The Pareto front of a study, the screening decision, and the rule that picks one edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sombrero.records import TrialScore

PREDICTION_MARGIN = 0.1
"""The screening may be wrong by this share of the prompts, until the study itself shows more."""


def pareto_front(scores: Sequence[TrialScore]) -> tuple[TrialScore, ...]:
    """Generated trials that no other one beats on all objectives together, by falling refusals."""
    generated = [s for s in scores if s.state == "generated"]
    front = [s for s in generated if not any(other.dominates(s) for other in generated)]
    return tuple(sorted(front, key=lambda s: (-s.rate, _kl(s), s.number)))


def has_stalled(scores: Sequence[TrialScore], patience: int) -> bool:
    """Whether the last ``patience`` generated trials left the front of those before them as it was."""
    generated = sorted((s for s in scores if s.state == "generated"), key=lambda s: s.number)
    if len(generated) <= patience:
        return False
    return not any(
        all(not before.dominates(s) for before in generated[:place])
        for place, s in enumerate(generated)
        if place >= len(generated) - patience
    )


def may_enter_front(candidate: TrialScore, scores: Sequence[TrialScore]) -> bool:
    """Whether a screened candidate could still enter the front, if its prediction is as wrong as any was so far."""
    generated = [s for s in scores if s.state == "generated"]
    predicted = (candidate.predicted_refusals or 0) / candidate.n
    hopeful = max(0.0, predicted - prediction_margin(generated))
    kept = candidate.lost_rate
    if candidate.lost is None:
        kept = max(0.0, kept - loss_margin(generated))
    return not any(s.rate <= hopeful and _kl(s) <= _kl(candidate) and s.lost_rate <= kept for s in generated)


def beaten_at(candidate: TrialScore, scores: Sequence[TrialScore]) -> int | None:
    """The number of refusals at which a generated trial that is no worse otherwise beats the candidate; or None.

    What the candidate loses of the true refusals has to be counted before.
    """
    rivals = (s for s in scores if s.refusals is not None)
    beaten = [s.refusals for s in rivals if _kl(s) <= _kl(candidate) and s.lost_rate <= candidate.lost_rate]
    return min((refusals for refusals in beaten if refusals is not None), default=None)


def prediction_margin(generated: Sequence[TrialScore]) -> float:
    """By how much (a share of the prompts) the screening has overestimated refusals; at least PREDICTION_MARGIN."""
    errors = [(s.predicted_refusals or 0) / s.n - s.rate for s in generated]
    return max([PREDICTION_MARGIN, *errors])


def loss_margin(generated: Sequence[TrialScore]) -> float:
    """By how much the screening has overestimated the share of true refusals lost; at least PREDICTION_MARGIN."""
    errors = [(s.predicted_lost or 0) / s.n_true - s.lost_rate for s in generated if s.n_true]
    return max([PREDICTION_MARGIN, *errors])


@dataclass(frozen=True)
class Constraints:
    """What an edit should keep to: a rate of refusals, first-token KL (nats), a share of the true refusals kept."""

    max_refusals: float
    max_kl: float
    keep_true_refusals: float = 0.0

    def excess(self, score: TrialScore) -> float:
        """The larger part of KL and of true refusals lost over what is allowed: at most 1 within both limits."""
        allowed = 1 - self.keep_true_refusals + 1e-9  # so that rounding forbids no count, and nothing is divided by 0
        return max(_kl(score) / self.max_kl, score.lost_rate / allowed)

    def met(self, score: TrialScore) -> bool:
        """Whether the score keeps to all of them."""
        return self.excess(score) <= 1 and score.rate <= self.max_refusals


def rank_finalists(scores: Sequence[TrialScore], constraints: Constraints) -> tuple[TrialScore, ...]:
    """The front, best first. Trials within ``max_kl`` that keep the true refusals come before all others.

    Of these, the lowest KL among those within ``max_refusals``; where there is none, the fewest refusals. Trials beyond
    follow by the larger excess over the two limits, as a part of each.
    """

    def order(score: TrialScore) -> tuple[float, ...]:
        excess = constraints.excess(score)
        if excess > 1:
            return (2.0, excess, score.rate, score.number)
        if score.rate <= constraints.max_refusals:
            return (0.0, _kl(score), score.lost_rate, score.rate, score.number)
        return (1.0, score.rate, score.lost_rate, _kl(score), score.number)

    return tuple(sorted(pareto_front(scores), key=order))


def _kl(score: TrialScore) -> float:
    return float("inf") if score.kl is None else score.kl
