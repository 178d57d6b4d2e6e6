"""The first units of a map, as weights of samples: ``W = P X``, in the space of rows and of features alike.

``random``: distinct samples. ``pca``: the lattice laid flat in the plane of the two widest principal components, from
minus to plus one standard deviation, the longer side along the wider one (the linear initialization of Kohonen,
Self-Organizing Maps, 2001; MiniSom's takes unit lengths instead of standard deviations). ``k-means++``: far apart
samples (Arthur & Vassilvitskii 2007), each the best of a few trials, as in scikit-learn.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sombrero.som.lattice import Lattice
from sombrero.som.spaces import Space
from sombrero.som.training import Training


def initial_weights(
    space: Space, start: NDArray[np.int64], uniform: NDArray[np.float64], training: Training, like: torch.Tensor
) -> torch.Tensor:
    """P ``(L, m, n)`` over the samples of space, in the dtype and on the device of ``like``.

    start ``(m,)``: the samples of ``random``, the first of which also begins ``k-means++``; uniform ``(m, t)``, in
    [0, 1), decides its trials.
    """
    n_layers, n = space.shape
    if training.initialization == "pca":
        flat = torch.from_numpy(flattened(training.lattice)).to(like)
        around_mean: torch.Tensor = flat @ space.principal_axes(2).mT / n**0.5
        return around_mean + 1.0 / n
    weights = torch.zeros(n_layers, len(start), n, dtype=like.dtype, device=like.device)
    return weights.scatter_(2, _first_samples(space, start, uniform, training)[..., None], 1.0)


def initial_distances(
    space: Space, start: NDArray[np.int64], uniform: NDArray[np.float64], training: Training
) -> torch.Tensor:
    """Squared distance of every sample to the first units, ``(L, m, n)``: of those that :func:`initial_weights` gives.

    Where a unit is a sample, its distances are at hand and need no product.
    """
    if training.initialization == "pca":
        return space.to_weighted(initial_weights(space, start, uniform, training, space.norms))
    return space.to_samples(_first_samples(space, start, uniform, training))


def _first_samples(
    space: Space, start: NDArray[np.int64], uniform: NDArray[np.float64], training: Training
) -> torch.Tensor:
    """The samples ``(L, m)`` that ``random`` or ``k-means++`` begins with."""
    device = space.norms.device
    if training.initialization == "k-means++":
        return far_apart(space, int(start[0]), torch.from_numpy(uniform).to(device, space.norms.dtype))
    return torch.from_numpy(start).to(device).expand(space.shape[0], -1)


def flattened(lattice: Lattice) -> NDArray[np.float64]:
    """Coordinates of the units ``(m, 2)``, each from -1 to 1, those of the longer side first; 0 along a side of one."""
    place = lattice.coordinates - lattice.coordinates.min(axis=0)
    extent = place.max(axis=0)
    order = np.argsort(-extent, kind="stable")
    return np.where(extent > 0.0, 2.0 * place / np.where(extent > 0.0, extent, 1.0) - 1.0, 0.0)[:, order]


def far_apart(space: Space, first: int, uniform: torch.Tensor) -> torch.Tensor:
    """Samples ``(L, m)`` by greedy k-means++: each is drawn by its squared distance to the nearest one before it.

    uniform ``(m, t)``: draws in [0, 1); of t trials the one that leaves the smallest sum of squared distances counts.
    """
    n_layers, n = space.shape
    chosen = torch.full((n_layers, len(uniform)), first, device=uniform.device)
    nearest = space.to_samples(chosen[:, :1])[:, 0]
    for unit in range(1, len(uniform)):
        cumulative = nearest.cumsum(dim=1)
        drawn = uniform[unit] * cumulative[:, -1:]
        candidates = torch.searchsorted(cumulative, drawn, right=True).clamp_(max=n - 1)
        left = torch.minimum(space.to_samples(candidates), nearest[:, None])
        best = left.sum(dim=2).argmin(dim=1, keepdim=True)
        chosen[:, unit] = candidates.gather(1, best)[:, 0]
        nearest = left.gather(1, best[..., None].expand(-1, -1, n))[:, 0]
    return chosen
