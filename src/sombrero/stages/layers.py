"""The layer whose directions stand for the model's refusal, chosen by the run's rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from sombrero.directions import LayerChoice, ablation_candidates, choose_by_auroc, choose_by_log_odds
from sombrero.edits import EditPlanner, live_edit
from sombrero.evaluation import first_token_log_probs, kl, refusal_log_odds, refusal_tokens
from sombrero.progress import Progress
from sombrero.records import (
    Baseline,
    DirectionSet,
    EditParameters,
    HiddenStates,
    LayerProfile,
    ModelEdit,
    ModelHandle,
    RenderedPrompt,
    Writer,
)
from sombrero.session import Session


def choose_layer(session: Session, single: DirectionSet, baseline: Baseline, progress: Progress) -> LayerChoice:
    """The state index to use. The rule ``auroc`` costs nothing; ``log-odds`` two forward passes for each candidate.

    Both look at search prompts or held-out map prompts alone, never at those of the report. Raises RunError when the
    rule is ``log-odds`` and the first token does not tell refusals from answers.
    """
    settings = session.config.map
    if settings.layer_rule == "auroc":
        return choose_by_auroc(single)
    states = ablation_candidates(len(single.auroc) - 1)
    with progress.stage("ablate the direction of each layer", len(states)) as advance:
        measured = ablate_each(
            session.handle,
            session.writers,
            single,
            states,
            harmful=session.rendered("harmful", "search"),
            harmless=session.rendered("harmless", "search"),
            tokens=refusal_tokens(baseline.refusal_starts, baseline.answer_starts),
            batch_tokens=session.config.states.batch_tokens,
            advance=advance,
        )
    log_odds, divergence = zip(*measured, strict=True)
    choice = choose_by_log_odds(single, states, log_odds, divergence, settings.layer_max_kl)
    if not choice.within_bound:
        progress.say(
            f"no layer's direction can be ablated within a first-token KL of {settings.layer_max_kl:g} nats "
            f"(map.layer_max_kl): state index {choice.state} is used, which comes closest"
        )
    return choice


def ablate_each(
    handle: ModelHandle,
    writers: Sequence[Writer],
    single: DirectionSet,
    states: Sequence[int],
    *,
    harmful: Sequence[RenderedPrompt],
    harmless: Sequence[RenderedPrompt],
    tokens: torch.Tensor,
    batch_tokens: int = 4096,
    advance: Callable[[int], None] | None = None,
) -> list[tuple[float, float]]:
    """For each state index, with its single direction ablated by the rule ``project`` at every writer of every layer:
    the mean refusal log-odds of the harmful prompts, and the mean first-token KL of the harmless ones in nats."""
    base = first_token_log_probs(handle, harmless, batch_tokens=batch_tokens)
    found = []
    for edit in _ablations(handle, writers, single, states):
        with live_edit(handle, writers, edit):
            refused = refusal_log_odds(first_token_log_probs(handle, harmful, batch_tokens=batch_tokens), tokens)
            changed = kl(base, first_token_log_probs(handle, harmless, batch_tokens=batch_tokens))
        found.append((float(refused.mean()), float(changed.mean())))
        if advance is not None:
            advance(1)
    return found


def _ablations(
    handle: ModelHandle, writers: Sequence[Writer], single: DirectionSet, states: Sequence[int]
) -> Iterator[ModelEdit]:
    """The edits, one by one; each with a planner of its own, as a planner keeps its products with all weights."""
    everywhere = LayerProfile(0, max(writer.layer for writer in writers), 1.0)
    no_keys = HiddenStates((), torch.empty(0), {})  # the rule project asks for none
    for state in states:
        planner = EditPlanner(handle, writers, {"single": single}, no_keys, no_keys)
        yield planner.build(
            EditParameters("project", "single", state, (0,), {"attention": everywhere, "mlp": everywhere})
        )
