"""How well a map represents its samples. Every function takes a leading axis of layers: samples ``(L, n, d)``.

Functions are pure, and run in the dtype and on the device of their arguments.
"""

from __future__ import annotations

import torch

from sombrero.som.lattice import Lattice


def best_units(samples: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """The nearest unit of every sample, ``(L, n)`` int64; of units that are equally near the first counts.

    samples ``(L, n, d)``; codebook ``(L, m, d)``.
    """
    return _scores(samples, codebook).argmin(dim=2)


def best_two_units(samples: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest and the second nearest unit of every sample, each ``(L, n)`` int64. Both 0 on a map of one unit."""
    scores = _scores(samples, codebook)
    best = scores.argmin(dim=2)
    if codebook.shape[1] == 1:
        return best, best
    return best, scores.scatter_(2, best[..., None], float("inf")).argmin(dim=2)


def _scores(samples: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Squared distances ``(L, n, m)`` less a constant of each sample."""
    centre = codebook.mean(dim=1, keepdim=True)  # a common offset would cost digits in the product
    units = codebook - centre
    return units.square().sum(dim=2)[:, None, :] - 2.0 * ((samples - centre) @ units.mT)


def distances_to_best(samples: torch.Tensor, codebook: torch.Tensor, best_units: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of every sample to its best unit, ``(L, n)``, without cancellation."""
    index = best_units[..., None].expand(-1, -1, codebook.shape[2])
    return torch.linalg.vector_norm(samples - codebook.gather(1, index), dim=2)


def quantization_error(samples: torch.Tensor, codebook: torch.Tensor, best_units: torch.Tensor) -> torch.Tensor:
    """Mean distance of a sample to its best unit, ``(L,)`` (Kohonen, Self-Organizing Maps, 2001)."""
    return distances_to_best(samples, codebook, best_units).mean(dim=1)


def topographic_error(best_units: torch.Tensor, second_units: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """Share of samples whose two best units do not touch, ``(L,)`` float64 (Kiviluoto 1996). 0 on a map of one unit."""
    touching = torch.from_numpy(lattice.adjacency).to(best_units.device)
    apart = ~touching[best_units, second_units] & (best_units != second_units)
    return apart.sum(dim=1) / best_units.shape[1]


def hit_counts(best_units: torch.Tensor, n_units: int) -> torch.Tensor:
    """Number of samples whose best unit each unit is, ``(L, m)`` int64; a row sums to n."""
    counts = torch.zeros(best_units.shape[0], n_units, dtype=torch.int64, device=best_units.device)
    return counts.scatter_add_(1, best_units, torch.ones_like(best_units))


def u_matrix(codebook: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """Mean distance of every unit to the units that it touches, ``(L, m)`` (Ultsch & Siemon 1990). 0 without any."""
    touching = torch.from_numpy(lattice.adjacency).to(device=codebook.device, dtype=codebook.dtype)
    apart = torch.cdist(codebook, codebook, compute_mode="donot_use_mm_for_euclid_dist")
    return (apart * touching).sum(dim=2) / touching.sum(dim=1).clamp(min=1.0)
