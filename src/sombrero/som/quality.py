"""How well a map represents its samples. Every function takes a leading axis of layers: samples ``(L, n, d)``.

Functions are pure, and run in the dtype and on the device of their arguments.
"""

from __future__ import annotations

import torch
from torch.nn.functional import embedding

from sombrero.som.lattice import Lattice

_ROWS = 256
"""Samples compared at a time: a copy of all of them would cost more than the arithmetic."""


def best_units(samples: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """The nearest unit of every sample, ``(L, n)`` int64; of units that are equally near the first counts.

    samples ``(L, n, d)``; codebook ``(L, m, d)``.
    """
    centre = codebook.mean(dim=1, keepdim=True)  # a common offset would cost digits in the product
    return relative_scores(samples - centre, codebook - centre).argmin(dim=2)


def best_two_units(samples: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest and the second nearest unit of every sample, each ``(L, n)`` int64. Both 0 on a map of one unit.

    samples ``(L, n, d)`` and codebook ``(L, m, d)``, both less their common offset, if that is large.
    """
    scores = relative_scores(samples, codebook)
    best = scores.argmin(dim=2)
    if codebook.shape[1] == 1:
        return best, best
    return best, scores.scatter_(2, best[..., None], float("inf")).argmin(dim=2)


def relative_scores(samples: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Squared distances ``(L, n, m)`` less the squared length of each sample, which leaves the order of units alone."""
    return torch.baddbmm(codebook.square().sum(dim=2)[:, None, :], samples, codebook.mT, alpha=-2.0)


def distances_to_best(samples: torch.Tensor, codebook: torch.Tensor, best_units: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of every sample to its best unit, ``(L, n)``, without cancellation."""
    n_layers, n_units, _ = codebook.shape
    layer = n_units * torch.arange(n_layers, device=best_units.device)[:, None]
    units = codebook.flatten(0, 1)
    parts = []
    for some, best in zip(samples.split(_ROWS, dim=1), best_units.split(_ROWS, dim=1), strict=True):
        parts.append(torch.linalg.vector_norm(embedding(best + layer, units).sub_(some), dim=2))
    return torch.cat(parts, dim=1)


def quantization_error(samples: torch.Tensor, codebook: torch.Tensor, best_units: torch.Tensor) -> torch.Tensor:
    """Mean distance of a sample to its best unit, ``(L,)`` (Kohonen, Self-Organizing Maps, 2001)."""
    return distances_to_best(samples, codebook, best_units).mean(dim=1)


def topographic_error(best_units: torch.Tensor, second_units: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """Share of samples whose two best units do not touch, ``(L,)`` float32 (Kiviluoto 1996). 0 on a map of one unit."""
    touching = torch.from_numpy(lattice.adjacency).to(best_units.device)
    apart = ~touching[best_units, second_units] & (best_units != second_units)
    return apart.sum(dim=1) / best_units.shape[1]


def hit_counts(best_units: torch.Tensor, n_units: int) -> torch.Tensor:
    """Number of samples whose best unit each unit is, ``(L, m)`` int64; a row sums to n."""
    layer = n_units * torch.arange(len(best_units), device=best_units.device)[:, None]
    return torch.bincount((best_units + layer).flatten(), minlength=n_units * len(best_units)).view(-1, n_units)


def u_matrix(codebook: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """Mean distance of every unit to the units that it touches, ``(L, m)`` (Ultsch & Siemon 1990). 0 without any."""
    touching = torch.from_numpy(lattice.adjacency).to(codebook.device)
    first, second = touching.nonzero(as_tuple=True)
    lengths = torch.zeros(len(codebook), *touching.shape, dtype=codebook.dtype, device=codebook.device)
    lengths[:, first, second] = torch.linalg.vector_norm(codebook[:, first] - codebook[:, second], dim=2)
    return lengths.sum(dim=2) / touching.sum(dim=1).clamp(min=1)
