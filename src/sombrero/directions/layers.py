"""Which layer's directions to use: by a stated rule, with the figures that it went by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sombrero.errors import NumericalError
from sombrero.records import DirectionSet

LayerRule = Literal["auroc", "log-odds"]
DEPTH = 0.8
"""Directions are taken from before this share of the depth: later ones act on single tokens (Arditi et al. 2024)."""


@dataclass(frozen=True)
class LayerChoice:
    """The chosen state index, and the candidates with what the rule knew of each.

    auroc: of the single direction, held out. log_odds and kl, for the rule ``log-odds`` alone: mean refusal log-odds of
    harmful prompts, and mean first-token KL(base || ablated) of harmless ones in nats, with the candidate's direction
    ablated at every writer; None where it was not finite. within_bound is False when no candidate kept to ``max_kl``:
    then the one with the lowest KL was taken.
    """

    rule: LayerRule
    state: int
    states: tuple[int, ...]
    auroc: tuple[float, ...]
    log_odds: tuple[float | None, ...] = ()
    kl: tuple[float | None, ...] = ()
    max_kl: float | None = None
    within_bound: bool = True


def choose_by_auroc(single: DirectionSet) -> LayerChoice:
    """The state index whose single direction separates best on held-out prompts; of equal ones the first.

    The embeddings are left out: the template ends every prompt with the same token.
    """
    states = tuple(range(1, len(single.auroc)))
    auroc = tuple(single.auroc[1:, 0].tolist())
    return LayerChoice("auroc", states[auroc.index(max(auroc))], states, auroc)


def ablation_candidates(n_layers: int) -> tuple[int, ...]:
    """State indices that the rule ``log-odds`` may choose: the embeddings and the last fifth are left out.

    Index ``l`` is the stream before layer ``l``, as in Arditi et al. 2024, App. C, where layers from 0.8 L on are not
    considered. One candidate is left in the smallest model.
    """
    return tuple(range(1, max(2, int(DEPTH * n_layers))))


def choose_by_log_odds(
    single: DirectionSet,
    states: Sequence[int],
    log_odds: Sequence[float],
    kl: Sequence[float],
    max_kl: float,
) -> LayerChoice:
    """The candidate with the lowest refusal log-odds among those whose KL is at most ``max_kl``, else the lowest KL.

    The rule of Arditi et al. 2024, App. C, with two differences: directions are ablated where the writers write, so the
    embeddings stay as they are, and it is not asked whether adding a direction induces refusal.

    Raises NumericalError when no candidate has finite figures.
    """
    measured = [i for i in range(len(states)) if math.isfinite(log_odds[i]) and math.isfinite(kl[i])]
    if not measured:
        raise NumericalError(
            f"with its direction ablated, the model is not finite for any of the state indices {tuple(states)}; load "
            "it in bfloat16 or float32, or choose the layer by AUROC: map.layer_rule = 'auroc'"
        )
    kept = [i for i in measured if kl[i] <= max_kl]
    best = min(kept, key=lambda i: log_odds[i]) if kept else min(measured, key=lambda i: kl[i])
    return LayerChoice(
        rule="log-odds",
        state=states[best],
        states=tuple(states),
        auroc=tuple(single.auroc[list(states), 0].tolist()),
        log_odds=tuple(value if math.isfinite(value) else None for value in log_odds),
        kl=tuple(value if math.isfinite(value) else None for value in kl),
        max_kl=max_kl,
        within_bound=bool(kept),
    )
