"""A map as a picture of its samples: which neighbours it shows truly, and what can be drawn on its units.

Every sample lies where its best unit lies on the lattice, so many samples share a place. Ties are not broken by chance:
each figure is the expected value over all orders of equally distant samples, which is exact, as both are sums.
"""

from __future__ import annotations

import torch

from sombrero.errors import UsageError
from sombrero.som.lattice import Lattice

_ROWS = 512
"""Samples whose distances to all others are ranked at a time."""

_TIE_DIGITS = 9
"""Lattice distances that agree to so many digits are equal: those of a hexagonal grid are roots of three."""


def trustworthiness(
    samples: torch.Tensor, best_units: torch.Tensor, lattice: Lattice, n_neighbors: int = 5
) -> torch.Tensor:
    """How far neighbours on the map are neighbours among the samples, ``(L,)`` float32, at most 1.

    ``1 - 2 / (n k (2n - 3k - 1)) sum_i sum_{j in map neighbours of i} max(0, r(i, j) - k)``, with r the rank of j among
    the samples by distance from i (Venna & Kaski 2001, eq. 1). samples ``(L, n, d)``; best_units ``(L, n)`` int64.

    Raises UsageError where n_neighbors is not from 1 to below n / 2, or shapes do not fit.
    """
    return _faithfulness(samples, best_units, lattice, n_neighbors)[0]


def continuity(samples: torch.Tensor, best_units: torch.Tensor, lattice: Lattice, n_neighbors: int = 5) -> torch.Tensor:
    """How far neighbours among the samples are neighbours on the map, ``(L,)`` float32, at most 1.

    As ``trustworthiness``, with the samples and the map in each other's place (Venna & Kaski 2001, eq. 2).
    """
    return _faithfulness(samples, best_units, lattice, n_neighbors)[1]


def component_planes(
    codebook: torch.Tensor,
    *,
    features: torch.Tensor | None = None,
    directions: torch.Tensor | None = None,
    origin: torch.Tensor | None = None,
) -> torch.Tensor:
    """A value of each unit for each of k pictures, ``(L, m, k)`` in the dtype of the codebook ``(L, m, d)``.

    features ``(k,)`` int64: these components of the codebook. directions ``(k, d)`` or ``(L, k, d)``: the component of
    ``w_j - origin`` along each direction, whatever its length. origin: ``(L, d)``, or zero.

    Raises UsageError unless exactly one of features and directions is given, or where sizes do not fit.
    """
    if (features is None) == (directions is None):
        raise UsageError("component planes show either features or directions; give exactly one of them")
    n_layers, _, d = codebook.shape
    moved = codebook if origin is None else codebook - origin[:, None]
    if features is not None:
        if features.numel() and (int(features.max()) >= d or int(features.min()) < -d):
            raise UsageError(f"features {features.tolist()} are not all among the {d} of the codebook")
        return moved[:, :, features]
    assert directions is not None
    if directions.shape[-1] != d or (directions.ndim == 3 and len(directions) != n_layers) or directions.ndim > 3:
        raise UsageError(
            f"directions have shape {tuple(directions.shape)} for a codebook {tuple(codebook.shape)}; "
            "give (k, d), or (L, k, d)"
        )
    return moved @ torch.nn.functional.normalize(directions, dim=-1).mT


def unit_distances(codebook: torch.Tensor, lattice: Lattice) -> tuple[torch.Tensor, torch.Tensor]:
    """The U-matrix between units: every pair that touches, ``(E, 2)`` int64, and their distances ``(L, E)``.

    These are the edges that a full U-matrix draws between its units (Ultsch & Siemon 1990); ``quality.u_matrix`` is
    their mean at each unit. The first unit of a pair is the lower one; codebook ``(L, m, d)``.
    """
    pairs = torch.from_numpy(lattice.adjacency).triu().nonzero().to(codebook.device)
    return pairs, torch.linalg.vector_norm(codebook[:, pairs[:, 0]] - codebook[:, pairs[:, 1]], dim=2)


def _faithfulness(
    samples: torch.Tensor, best_units: torch.Tensor, lattice: Lattice, n_neighbors: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Trustworthiness and continuity, each ``(L,)`` float32."""
    n_layers, n = best_units.shape
    if samples.shape[:2] != best_units.shape:
        raise UsageError(
            f"best units {tuple(best_units.shape)} do not belong to samples {tuple(samples.shape)}; "
            "give (L, n) and (L, n, d)"
        )
    if not 1 <= n_neighbors < n / 2:
        raise UsageError(f"n_neighbors is {n_neighbors} of {n} samples; it must be at least 1 and below half of them")
    apart = torch.from_numpy(lattice.squared_distances).to(samples.device).round(decimals=_TIE_DIGITS)
    worst = n * n_neighbors * (2 * n - 3 * n_neighbors - 1) / 2
    kept = [_penalties(samples[layer], best_units[layer], apart, n_neighbors) for layer in range(n_layers)]
    trust, continuous = 1.0 - torch.tensor(kept, dtype=torch.float64).reshape(n_layers, 2).T / worst
    return trust.to(samples.device, torch.float32), continuous.to(samples.device, torch.float32)


def _penalties(
    samples: torch.Tensor, best_units: torch.Tensor, apart: torch.Tensor, n_neighbors: int
) -> tuple[float, float]:
    """The two sums of one layer: of map neighbours that are no neighbours, and of neighbours that the map parts."""
    centred = (samples - samples.mean(dim=0)).to(apart.dtype)
    lengths = centred.square().sum(dim=1)
    intruding = parted = 0.0
    for rows in torch.arange(len(samples), device=samples.device).split(_ROWS):
        among_samples = lengths[rows, None] + lengths - 2.0 * centred[rows] @ centred.T
        on_map = apart[best_units[rows]][:, best_units]
        for squared in (among_samples, on_map):
            squared[torch.arange(len(rows), device=rows.device), rows] = float("inf")  # nobody is their own neighbour
        near, beyond = _expected_neighbours(among_samples, n_neighbors)
        near_on_map, beyond_on_map = _expected_neighbours(on_map, n_neighbors)
        intruding += float((near_on_map * beyond).sum())
        parted += float((near * beyond_on_map).sum())
    return intruding, parted


def _expected_neighbours(distances: torch.Tensor, n_neighbors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every row of distances ``(r, n)``: the chance of being among the k nearest, and the expected max(0, rank - k).

    Equal distances share the ranks ``first .. last``, each equally likely.
    """
    ordered = distances.sort(dim=1).values
    first = torch.searchsorted(ordered, distances) + 1
    last = torch.searchsorted(ordered, distances, right=True)
    ties = (last - first + 1).to(distances.dtype)
    chance = ((n_neighbors + 1 - first) / ties).clamp_(0.0, 1.0)
    reached = (last - n_neighbors).clamp_(min=0)
    skipped = (first - 1 - n_neighbors).clamp_(min=0)
    beyond = (reached * (reached + 1) - skipped * (skipped + 1)) / (2.0 * ties)
    return chance, beyond
