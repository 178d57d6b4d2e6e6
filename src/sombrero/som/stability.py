"""Whether a map would come out the same again: over seeds, and over bootstrap resamples of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from sombrero.errors import UsageError
from sombrero.som.layers import fit_layers
from sombrero.som.quality import best_units


@dataclass(frozen=True)
class MapStability:
    """Agreement of every two of R maps, ``R (R - 1) / 2`` pairs, per layer.

    rand ``(L,)`` float32: mean adjusted Rand index of the assignments of all samples. cosine ``(L,)`` float32: mean
    cosine of matched directions. rand_pairs, cosine_pairs ``(L, pairs)`` float32: the values behind the means.
    """

    rand: torch.Tensor
    cosine: torch.Tensor
    rand_pairs: torch.Tensor
    cosine_pairs: torch.Tensor


def map_stability(
    hidden: torch.Tensor,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    bootstrap: bool = False,
    reference: torch.Tensor | None = None,
    **settings: Any,
) -> MapStability:
    """Train a map of ``hidden (n, L, d)`` for every seed and compare all pairs of them.

    bootstrap: each seed also draws its own n samples with replacement, so that the figures hold the chance of sampling
    as well as that of training; assignments are compared on all n samples. reference ``(L, d)``: directions are
    ``w_j - reference``, the harmless mean for instance; without it, they are the codebook less its own mean. settings:
    those of ``fit_layers``, but for the seed.

    Raises UsageError for fewer than two seeds or a reference that does not fit, and what ``fit_layers`` raises.
    """
    if len(seeds) < 2:
        raise UsageError(f"{len(seeds)} seed for the stability of a map; give at least two to compare")
    codebooks, assignments = [], []
    for seed in seeds:
        samples = hidden[_resample(len(hidden), seed)] if bootstrap else hidden
        maps = fit_layers(samples, seed=seed, **settings)
        codebooks.append(maps.codebook)
        assignments.append(_assigned(hidden, maps.codebook) if bootstrap else maps.best_units)
    pairs = list(combinations(range(len(seeds)), 2))
    rand = torch.stack([assignment_agreement(assignments[i], assignments[j]) for i, j in pairs], dim=1)
    cosine = torch.stack([matched_cosine(codebooks[i], codebooks[j], reference) for i, j in pairs], dim=1)
    return MapStability(rand.mean(dim=1), cosine.mean(dim=1), rand, cosine)


def assignment_agreement(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Adjusted Rand index of two assignments ``(L, n)`` of the same samples, ``(L,)`` float32.

    1 where the same samples share a unit, whatever its number; 0 in expectation where chance decides (Hubert & Arabie
    1985).
    """
    scores = [
        adjusted_rand_score(one.numpy(), other.numpy()) for one, other in zip(first.cpu(), second.cpu(), strict=True)
    ]
    return torch.tensor(scores, dtype=torch.float32)


def matched_cosine(first: torch.Tensor, second: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
    """Mean cosine of the directions of two codebooks ``(L, m, d)`` under the best one-to-one match, ``(L,)`` float32.

    The match maximises the sum of cosines (Hungarian method). Directions are ``w_j - reference``, reference ``(L, d)``,
    or the codebook less its own mean. A unit without direction has the cosine 0 to all.

    Raises UsageError where the shapes do not fit.
    """
    if first.shape != second.shape or (reference is not None and reference.shape != first[:, 0].shape):
        shown = None if reference is None else tuple(reference.shape)
        raise UsageError(
            f"codebooks {tuple(first.shape)} and {tuple(second.shape)} with reference {shown} cannot be matched; "
            "give (L, m, d) twice, and (L, d)"
        )
    one, other = (_directions(codebook, reference) for codebook in (first, second))
    means = []
    for cosines in (one @ other.mT).cpu().numpy():
        rows, columns = linear_sum_assignment(cosines, maximize=True)
        means.append(float(cosines[rows, columns].mean()))
    return torch.tensor(means, dtype=torch.float32)


def _resample(n_samples: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randint(n_samples, size=n_samples))


def _directions(codebook: torch.Tensor, reference: torch.Tensor | None) -> torch.Tensor:
    origin = codebook.mean(dim=1) if reference is None else reference.to(codebook.device)
    return torch.nn.functional.normalize((codebook - origin[:, None]).double(), dim=2)


def _assigned(hidden: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Best units ``(L, n)`` of all samples, one layer at a time."""
    layers = [
        best_units(hidden[:, layer][None].to(codebook.dtype), codebook[[layer]]) for layer in range(len(codebook))
    ]
    return torch.cat(layers)
