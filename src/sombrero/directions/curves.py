"""What changes from layer to layer, as a table: one row for each state index."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sombrero.directions.geometry import effective_rank
from sombrero.records import DirectionSet, HiddenStates

NO_DIRECTION = 1e-5
"""A direction shorter than this share of a state is rounding: all prompts have the same embeddings at their end."""


@dataclass(frozen=True)
class LayerFigures:
    """One state index. None where there is no direction, as in the embeddings.

    auroc_single with its bootstrap 95% interval, and auroc_best_unit, that of the best unit: on held-out prompts.
    hit_units: units with prompts. effective_rank: of the map's units. relative_norm: length of the single direction
    over the mean length of a state. neighbour_cosine: between the single direction and that of the state index before.
    unit_cosine: between it and the most salient unit's.
    """

    state: int
    auroc_single: float
    auroc_single_low: float
    auroc_single_high: float
    auroc_best_unit: float
    hit_units: int
    effective_rank: float | None
    relative_norm: float
    neighbour_cosine: float | None
    unit_cosine: float | None


def layer_curves(som: DirectionSet, single: DirectionSet, harmless: HiddenStates) -> tuple[LayerFigures, ...]:
    """The table for a map's directions and the single one; ``harmless`` states give the scale of the residual stream.

    Lengths and cosines are those of the directions as given, projected or not.
    """
    lengths = harmless.hidden.norm(dim=-1).mean(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
    relative = single.vectors[:, 0].norm(dim=-1) / lengths
    unit, salient = (torch.nn.functional.normalize(found.vectors[:, 0], dim=-1) for found in (single, som))
    there = (relative > NO_DIRECTION).tolist()
    units_there = (som.vectors.norm(dim=-1).amax(dim=1) / lengths > NO_DIRECTION).tolist()
    before = [False, *there]
    ranks, best = effective_rank(som.vectors), som.auroc.amax(dim=1)
    return tuple(
        LayerFigures(
            state=state,
            auroc_single=float(single.auroc[state, 0]),
            auroc_single_low=float(single.auroc_low[state, 0]),
            auroc_single_high=float(single.auroc_high[state, 0]),
            auroc_best_unit=float(best[state]),
            hit_units=int((som.hit_counts[state] > 0).sum()),
            effective_rank=float(ranks[state]) if units_there[state] else None,
            relative_norm=float(relative[state]),
            neighbour_cosine=float(unit[state] @ unit[state - 1]) if there[state] and before[state] else None,
            unit_cosine=float(unit[state] @ salient[state]) if there[state] and units_there[state] else None,
        )
        for state in range(len(unit))
    )
