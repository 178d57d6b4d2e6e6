"""Refusal from the first token alone: cheap enough to screen every trial with one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from sombrero.errors import RunError, UsageError

MIN_SHARE_RATIO = 2.0
"""A token opens refusals when its share among them is at least this many times its share among answers."""


def refusal_tokens(first_tokens_of_refusals: Sequence[int], first_tokens_of_answers: Sequence[int]) -> torch.Tensor:
    """Tokens that open refusals, ``(k,)`` int64, ascending.

    Rule: a token counts when its share among the refusals' first tokens is at least MIN_SHARE_RATIO times its share
    among the answers' first tokens; one that no answer opens with counts always.

    Raises RunError when no token does: then the first token does not tell refusals from answers.
    """
    refusals, answers = Counter(first_tokens_of_refusals), Counter(first_tokens_of_answers)
    n_refusals, n_answers = max(1, refusals.total()), max(1, answers.total())
    found = [t for t, k in refusals.items() if k / n_refusals >= MIN_SHARE_RATIO * answers[t] / n_answers]
    if not found:
        raise RunError(
            f"no token opens refusals rather than answers ({refusals.total()} refusals, {answers.total()} answers): "
            "the first token cannot screen trials. Use prompts that the model refuses, or check the harmless ones"
        )
    return torch.tensor(sorted(found), dtype=torch.int64)


def refusal_log_odds(log_probs: torch.Tensor, refusal_tokens: torch.Tensor) -> torch.Tensor:
    """Log-odds ``(n,)`` float32 that the first token opens a refusal, of log-probs ``(n, vocab)``.

    ``logsumexp`` over the refusal tokens minus ``logsumexp`` over all others. Raises UsageError when there are no
    refusal tokens, or no others.
    """
    is_refusal = torch.zeros(log_probs.shape[-1], dtype=torch.bool, device=log_probs.device)
    is_refusal[refusal_tokens.to(log_probs.device)] = True
    if not is_refusal.any() or is_refusal.all():
        raise UsageError(
            f"{int(is_refusal.sum())} of {len(is_refusal)} tokens are refusal tokens; some must be, and some must not"
        )
    values = log_probs.float()
    return values[:, is_refusal].logsumexp(dim=-1) - values[:, ~is_refusal].logsumexp(dim=-1)
