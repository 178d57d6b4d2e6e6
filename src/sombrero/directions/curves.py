"""What changes from layer to layer, as a table: one row for each state index."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sombrero.directions.geometry import effective_rank, principal_angles
from sombrero.records import DirectionSet, HiddenStates


@dataclass(frozen=True)
class LayerFigures:
    """One state index. None where a figure is not defined, as all of them that need a direction are in the embeddings.

    auroc_single with its bootstrap 95% interval, and auroc_best_unit, that of the best unit: on held-out prompts.
    effective_rank of the map's units. relative_norm: length of the single direction over the mean
    length of a harmless state. neighbour_cosine: between the single direction and the one before. angle: the smallest
    principal angle between the units' span and the single direction, in radians. hit_units: units with prompts.
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
    angle: float | None


def layer_curves(som: DirectionSet, single: DirectionSet, harmless: HiddenStates) -> tuple[LayerFigures, ...]:
    """The table for a map's directions and the single one; ``harmless`` states give the scale of the residual stream.

    Lengths and cosines are those of the directions as given, projected or not.
    """
    first = single.vectors[:, 0]
    norms, lengths = first.norm(dim=-1), harmless.hidden.norm(dim=-1).mean(dim=0)
    unit = torch.nn.functional.normalize(first, dim=-1)
    cosines = torch.cat([torch.full((1,), float("nan")), (unit[1:] * unit[:-1]).sum(dim=-1)])
    cosines[1:][(norms[1:] == 0) | (norms[:-1] == 0)] = float("nan")
    ranks, angles = effective_rank(som.vectors), principal_angles(som.vectors, single.vectors)[:, 0]
    best = som.auroc.amax(dim=1)
    return tuple(
        LayerFigures(
            state=state,
            auroc_single=float(single.auroc[state, 0]),
            auroc_single_low=float(single.auroc_low[state, 0]),
            auroc_single_high=float(single.auroc_high[state, 0]),
            auroc_best_unit=float(best[state]),
            hit_units=int((som.hit_counts[state] > 0).sum()),
            effective_rank=None if not bool(som.vectors[state].any()) else float(ranks[state]),
            relative_norm=float(norms[state] / lengths[state].clamp_min(torch.finfo(torch.float32).tiny)),
            neighbour_cosine=_defined(cosines[state]),
            angle=_defined(angles[state]),
        )
        for state in range(len(first))
    )


def _defined(value: torch.Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)
