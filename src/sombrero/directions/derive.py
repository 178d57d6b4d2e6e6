"""Directions from a codebook: ``r_j = w_j - mu`` (Piras et al. 2026), ordered by salience."""

from __future__ import annotations

import torch

from sombrero.directions.salience import projection_auroc
from sombrero.errors import NumericalError
from sombrero.records import DirectionSet, HiddenStates, RefusalMap


def derive_directions(
    refusal_map: RefusalMap,
    harmful: HiddenStates,
    harmless: HiddenStates,
    *,
    method: str = "som",
    projected: bool = False,
) -> DirectionSet:
    """Directions of every unit at every state index, most salient first.

    ``harmful`` and ``harmless`` are held-out states: they decide the AUROC, not the directions. Salience orders units
    by training hits, then by AUROC. ``projected`` removes from each direction its component along the harmless mean.

    Raises NumericalError when the held-out states are not of the map's shape.
    """
    mean = refusal_map.harmless_mean
    if harmful.hidden.shape[1:] != mean.shape or harmless.hidden.shape[1:] != mean.shape:
        raise NumericalError(
            f"held-out states of shape {tuple(harmful.hidden.shape)} do not fit a map over {tuple(mean.shape)}; "
            "they come from another model"
        )
    vectors = refusal_map.codebook - mean[:, None, :]
    if projected:
        vectors = remove_component(vectors, mean)
    auroc = projection_auroc(harmful.hidden, harmless.hidden, vectors)
    order = torch.argsort(refusal_map.hit_counts + auroc / 2, dim=1, descending=True, stable=True)
    return DirectionSet(
        method=method,
        vectors=torch.gather(vectors, 1, order[..., None].expand_as(vectors)),
        units=order,
        hit_counts=torch.gather(refusal_map.hit_counts, 1, order),
        auroc=torch.gather(auroc, 1, order),
        auroc_low=torch.full_like(auroc, torch.nan),
        auroc_high=torch.full_like(auroc, torch.nan),
        log_odds=torch.full_like(auroc, torch.nan),
        harmless_mean=mean,
    )


def remove_component(vectors: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """Vectors ``(L + 1, m, d)`` without their component along ``(L + 1, d)``; a zero ``along`` changes nothing."""
    unit = torch.nn.functional.normalize(along, dim=-1)
    amount = torch.einsum("lmd,ld->lm", vectors, unit)
    return vectors - amount[..., None] * unit[:, None, :]
