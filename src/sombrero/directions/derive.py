"""Directions from a codebook: ``r_j = w_j - mu`` (Piras et al. 2026), ordered by salience."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sombrero.directions.codebook import Codebook
from sombrero.directions.salience import mean_log_odds, separation
from sombrero.errors import NumericalError
from sombrero.records import DirectionSet, HiddenStates, RefusalMap


def derive_directions(
    source: Codebook | RefusalMap,
    harmful: HiddenStates,
    harmless: HiddenStates,
    *,
    log_odds: Mapping[str, float] | None = None,
    projected: bool = False,
    seed: int = 0,
) -> DirectionSet:
    """Directions of every unit at every state index, most salient first: one path for the map and for its controls.

    ``harmful`` and ``harmless`` are held-out states: they decide the AUROC, not the directions. Salience orders units
    by training hits, then by AUROC, unless the codebook has an order of its own. ``log_odds`` are the refusal log-odds
    of training prompts by id. ``projected`` removes from each direction its component along the harmless mean. The
    seed is that of the AUROC's bootstrap.

    Raises NumericalError when the held-out states are not of the codebook's shape.
    """
    codebook = source if isinstance(source, Codebook) else Codebook.of_map(source)
    mean = codebook.harmless_mean
    if harmful.hidden.shape[1:] != mean.shape or harmless.hidden.shape[1:] != mean.shape:
        raise NumericalError(
            f"held-out states of shape {tuple(harmful.hidden.shape)} do not fit a map over {tuple(mean.shape)}; "
            "they come from another model"
        )
    vectors = direction_vectors(codebook, projected=projected)
    hits = codebook.hit_counts
    auroc, low, high = separation(harmful.hidden, harmless.hidden, vectors, seed=seed)
    refused = mean_log_odds(codebook.best_units, hits.shape[1], codebook.train_ids, log_odds or {})
    order = torch.arange(hits.shape[1]).expand(hits.shape)
    if codebook.order == "hits":
        order = torch.argsort(hits + auroc / 2, dim=1, descending=True, stable=True)
    hits, auroc, low, high, refused = (torch.gather(t, 1, order) for t in (hits, auroc, low, high, refused))
    return DirectionSet(
        method=codebook.method,
        vectors=torch.gather(vectors, 1, order[..., None].expand_as(vectors)),
        units=order,
        hit_counts=hits,
        auroc=auroc,
        auroc_low=low,
        auroc_high=high,
        log_odds=refused,
        harmless_mean=mean,
    )


def direction_vectors(codebook: Codebook, *, projected: bool = False) -> torch.Tensor:
    """``r_j = w_j - mu`` of every unit, ``(L + 1, m, d)`` float32, in the codebook's order."""
    vectors = codebook.points - codebook.harmless_mean[:, None, :]
    return remove_component(vectors, codebook.harmless_mean) if projected else vectors


def remove_component(vectors: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """Vectors ``(L + 1, m, d)`` without their component along ``(L + 1, d)``; a zero ``along`` changes nothing."""
    unit = torch.nn.functional.normalize(along, dim=-1)
    amount = torch.einsum("lmd,ld->lm", vectors, unit)
    return vectors - amount[..., None] * unit[:, None, :]
