"""How much of an update a unit gets, by its place on the lattice relative to the best unit.

With p the squared distance on the lattice and s the number of steps between touching units (MiniSom's formulas):
``gaussian`` exp(-p / 2 sigma^2); ``mexican_hat`` (1 - p / sigma^2) exp(-p / 2 sigma^2), the Ricker wavelet, negative
beyond sigma; ``bubble`` 1 where s < sigma, else 0. MiniSom's bubble is a square of units on either lattice; on the
hexagonal one this bubble is a hexagon.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from sombrero.som.lattice import Lattice

NeighbourhoodName = Literal["gaussian", "bubble", "mexican_hat"]
NEIGHBOURHOODS: tuple[str, ...] = get_args(NeighbourhoodName)


def lattice_distances(name: str, lattice: Lattice, like: torch.Tensor) -> torch.Tensor:
    """What ``influence`` takes of every two units, ``(m, m)``: steps for bubble, else squared distances."""
    return torch.from_numpy(lattice.steps if name == "bubble" else lattice.squared_distances).to(like)


def influence(name: str, distances: torch.Tensor, sigma: float) -> torch.Tensor:
    """The neighbourhood function of width sigma at ``lattice_distances``, elementwise."""
    if name == "bubble":
        return (distances < sigma).to(distances.dtype)
    exponent = distances * (-0.5 / (sigma * sigma))
    if name == "gaussian":
        return exponent.exp_()
    return (1.0 + 2.0 * exponent).mul_(exponent.exp())


def cluster_weights(name: str, hits: torch.Tensor, distances: torch.Tensor, sigma: float) -> torch.Tensor:
    """Weight in unit j of one sample of cluster k, ``g_jk / sum_i g_j,b(i)``, ``(L, m, m)``; a row times hits is 1.

    hits ``(L, m)``: samples of each cluster; distances from ``lattice_distances``. An empty unit that no sample reaches
    becomes the mean of the samples nearest to it on the lattice, at any sigma: the Gaussian counts distance from the
    nearest unit that has samples, which leaves the ratio as it is, and the bubble grows until it holds some.
    """
    hits = hits.to(distances.dtype)
    reach = distances.expand(len(hits), -1, -1).masked_fill(hits[:, None] == 0.0, float("inf"))
    nearest = reach.amin(dim=2, keepdim=True)
    if name == "bubble":
        weights = ((reach < sigma) | (reach == nearest)).to(hits.dtype)
    else:
        weights = torch.exp((reach - nearest) * (-0.5 / (sigma * sigma)))
    return weights / (weights @ hits[..., None])
