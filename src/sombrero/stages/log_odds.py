"""How the untouched model refuses each harmful map prompt, read from its first token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sombrero.errors import RunError
from sombrero.evaluation import first_token_log_probs, refusal_log_odds, refusal_tokens
from sombrero.progress import Progress
from sombrero.records import Baseline
from sombrero.session import Session

PROMPTS_AT_ONCE = 256
"""Prompts whose log-probs over the whole vocabulary are held at a time."""


@dataclass(frozen=True)
class PromptLogOdds:
    """Refusal log-odds by prompt id, and the first tokens that count as refusals, taken from the search prompts.

    problem says why there are none, where the first token does not tell refusals from answers.
    """

    tokens: tuple[int, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None


def measure_log_odds(session: Session, baseline: Baseline, progress: Progress) -> PromptLogOdds:
    """One forward pass over the harmful map prompts. A map without log-odds is still a map: then it says why."""
    try:
        tokens = refusal_tokens(baseline.refusal_starts, baseline.answer_starts)
    except RunError as error:
        progress.say(f"refusal log-odds are not measured: {error}")
        return PromptLogOdds(problem=str(error))
    prompts = session.rendered("harmful", "map")
    values: dict[str, float] = {}
    with progress.stage("refusal log-odds", len(prompts)) as advance:
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            part = prompts[start : start + PROMPTS_AT_ONCE]
            found = first_token_log_probs(session.handle, part, batch_tokens=session.config.states.batch_tokens)
            odds = refusal_log_odds(found, tokens).tolist()
            values |= {prompt.prompt.id: value for prompt, value in zip(part, odds, strict=True)}
            advance(len(part))
    return PromptLogOdds(tuple(tokens.tolist()), values)
