"""What is known of hidden states: the states, their maps, directions and quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class HiddenStates:
    """What one forward pass over a set of prompts left at the end of each prompt.

    hidden: ``(n, L + 1, d)`` float32, at the prompt's last token. writer_inputs: writer name -> ``(n, P, d_in)`` in the
    model's dtype, the writer's input ``x`` at P tokens: those that the chat template gives to all prompts alike, and
    those of an answer's opening. There may be fewer rows of them than prompts, the first ones.
    """

    prompt_ids: tuple[str, ...]
    hidden: torch.Tensor
    writer_inputs: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class RefusalMap:
    """One codebook per state index, trained on harmful states alone.

    codebook ``(L + 1, m, d)`` float32; hit_counts ``(L + 1, m)`` int64 over the training samples; best_units
    ``(L + 1, n_train)`` int64; quantization_error, topographic_error ``(L + 1,)`` float32; u_matrix ``(L + 1, m)``
    float32, the mean distance of a unit to its lattice neighbours; harmless_mean, harmful_mean ``(L + 1, d)`` float32.
    """

    n_rows: int
    n_columns: int
    lattice: str
    rule: str
    codebook: torch.Tensor
    hit_counts: torch.Tensor
    best_units: torch.Tensor
    quantization_error: torch.Tensor
    topographic_error: torch.Tensor
    u_matrix: torch.Tensor
    harmless_mean: torch.Tensor
    harmful_mean: torch.Tensor
    train_ids: tuple[str, ...]
    toroidal: bool = False


@dataclass(frozen=True)
class DirectionSet:
    """Directions per state index, most salient first.

    vectors ``(L + 1, m, d)`` float32, ``w_j - mu``, not normalised; units ``(L + 1, m)`` int64, the map unit each row
    came from; hit_counts ``(L + 1, m)`` int64; auroc ``(L + 1, m)`` float32 on held-out prompts; auroc_low, auroc_high
    ``(L + 1, m)`` float32, its 95% interval over resamples of these prompts; log_odds ``(L + 1, m)`` float32, the mean
    refusal log-odds of the unit's training prompts, NaN for a unit without prompts or where they were not measured;
    harmless_mean ``(L + 1, d)`` float32, the mean ``mu``.
    """

    method: str
    vectors: torch.Tensor
    units: torch.Tensor
    hit_counts: torch.Tensor
    auroc: torch.Tensor
    auroc_low: torch.Tensor
    auroc_high: torch.Tensor
    log_odds: torch.Tensor
    harmless_mean: torch.Tensor


@dataclass(frozen=True)
class MapQuality:
    """How far each layer's map can be trusted, and how many units its samples support.

    trustworthiness, continuity ``(L + 1,)`` float32 of the map as a two-dimensional picture (Venna & Kaski 2001);
    rand, cosine ``(L + 1,)`` float32, the stability over seeds: mean adjusted Rand index of the assignments and mean
    cosine of matched units, each less the mean of its codebook.

    candidates ``(S,)`` int64, the numbers of units that were tried, from 1 up; held_out_error ``(L + 1, S)`` float32,
    the quantization error of samples that the map was not trained on; reference_error likewise, of a single Gaussian
    with the same mean and covariance; strength ``(L + 1, S)`` float32, the prediction strength (Tibshirani & Walther
    2005). chosen, chosen_low, chosen_high ``(L + 1,)`` int64: the number of units that the harmful samples support,
    with the 95% interval over resamples; control ``(L + 1,)`` int64: the same for as many harmless samples, whose
    structure cannot be refusal.
    """

    trustworthiness: torch.Tensor
    continuity: torch.Tensor
    rand: torch.Tensor
    cosine: torch.Tensor
    candidates: torch.Tensor
    held_out_error: torch.Tensor
    reference_error: torch.Tensor
    strength: torch.Tensor
    chosen: torch.Tensor
    chosen_low: torch.Tensor
    chosen_high: torch.Tensor
    control: torch.Tensor


@dataclass(frozen=True)
class Manifold:
    """Every layer's states in the plane of their two main components, for pictures.

    harmful ``(L + 1, n_h, 2)``, harmless ``(L + 1, n_g, 2)``, codebook ``(L + 1, m, 2)``, all float32, projected on one
    basis a layer, that of harmful and harmless states together; explained ``(L + 1, 2)`` float32, the share of variance
    along each axis.
    """

    harmful: torch.Tensor
    harmless: torch.Tensor
    codebook: torch.Tensor
    explained: torch.Tensor


@dataclass(frozen=True)
class EditedPlane:
    """The same prompts after the edit, on the basis of :class:`Manifold`: the first ones of each role.

    harmful ``(L + 1, n_h, 2)``, harmless ``(L + 1, n_g, 2)``, float32; row i belongs to row i of the manifold's.
    """

    harmful: torch.Tensor
    harmless: torch.Tensor


@dataclass(frozen=True)
class UnitProfile:
    """Who lives in one unit of one layer's map: training prompts whose best unit it is.

    categories: how many of these prompts are of each category, most frequent first. log_odds: their mean refusal
    log-odds at the first token; None for a unit without prompts.
    """

    state: int
    unit: int
    prompt_ids: tuple[str, ...]
    categories: Mapping[str, int]
    log_odds: float | None
