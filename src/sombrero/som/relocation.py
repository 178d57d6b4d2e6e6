"""What follows ordering in the batch rule: wasted units move, and all units are placed on the grid again.

Annealing orders a map well but may leave two units in one cluster and none in another. Moves are accepted only where
they lower the quantization error, layer by layer. Distances are squared, ``(L, m, n)``, unit by sample.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sombrero.som.lattice import Lattice
from sombrero.som.spaces import Space, memberships, rows_at

_LEAST_GAIN = 2e-4
"""A move must lower the quantization error by this share: less is not worth another trial."""


def relocate(
    distances: torch.Tensor, space: Space, refit: Callable[[Space, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Move the least useful units to badly represented samples while the refitted map's quantization error falls.

    Each layer tries half of its units at once; when that fails, half as many, down to one. Layers that are finished are
    left out of the work as soon as they are half of it. Returns new distances.
    """
    n_layers, n_units, _ = distances.shape
    if n_units == 1:
        return distances
    found, left = distances.clone(), torch.arange(n_layers, device=distances.device)
    error = _mean_distance(distances)
    size = torch.full((n_layers,), max(1, n_units // 2), device=distances.device)
    for _ in range(2 * n_units):
        trial = refit(space, _moved(distances, space, size))
        trial_error = _mean_distance(trial)
        better = (trial_error < error * (1.0 - _LEAST_GAIN)) & (size > 0)
        distances = torch.where(better[:, None, None], trial, distances)
        error = torch.where(better, trial_error, error)
        size = torch.where(better, size, size // 2)
        going = size > 0
        if 2 * int(going.sum()) <= len(left):
            found[left] = distances
            left, distances, error, size, space = (
                left[going], distances[going], error[going], size[going], space.of_layers(going)
            )  # fmt: skip
            if not len(left):
                break
    found[left] = distances
    return found


def _mean_distance(distances: torch.Tensor) -> torch.Tensor:
    return distances.amin(dim=1).sqrt().mean(dim=1)


def _moved(distances: torch.Tensor, space: Space, size: torch.Tensor) -> torch.Tensor:
    """Per layer, put the ``size`` units that are missed least on the samples that gain most, one of each cluster."""
    n_units = distances.shape[1]
    lengths = distances.sqrt()
    nearest, best = lengths.min(dim=1, keepdim=True)
    second = lengths.scatter(1, best, float("inf")).amin(dim=1, keepdim=True)
    own = memberships(best[:, 0], n_units, distances.dtype)
    loss = (own * (second - nearest)).sum(dim=2)
    farthest = (own * nearest).max(dim=2).indices
    candidates = space.to_samples(farthest)
    gain = (nearest - candidates.sqrt()).clamp_(min=0.0).sum(dim=2)
    gain = gain.masked_fill(own.sum(dim=2) < 2.0, -1.0)  # moving a unit onto its only sample changes nothing
    leaving = loss.argsort(dim=1, stable=True)
    arriving = gain.argsort(dim=1, descending=True, stable=True)
    moves = torch.arange(n_units, device=size.device) < size[:, None]
    row = leaving.scatter(1, leaving, torch.where(moves, n_units + arriving, leaving))
    return rows_at(torch.cat([distances, candidates], dim=1), row)


def arrange(distances: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """Permute units over the grid so that the two best units of a sample lie close together.

    A quadratic assignment: the sum over samples of the lattice distance between their two best units falls with each
    exchange of two units, the best exchange first, until none helps. Returns the distances with units permuted.
    """
    n_layers, n_units, _ = distances.shape
    if n_units < 3:
        return distances
    two = distances.topk(2, dim=1, largest=False).indices
    flow = torch.zeros(n_layers, n_units * n_units, dtype=distances.dtype, device=distances.device)
    flow.scatter_add_(1, two[:, 0] * n_units + two[:, 1], torch.ones_like(two[:, 0], dtype=distances.dtype))
    flow = flow.view(n_layers, n_units, n_units)
    flow = flow + flow.mT
    apart = torch.from_numpy(lattice.squared_distances).to(distances).sqrt().expand(n_layers, -1, -1)
    unit_at = torch.arange(n_units, device=distances.device).repeat(n_layers, 1)
    for _ in range(4 * n_units):
        product = flow @ apart
        own = product.diagonal(dim1=1, dim2=2)
        change = product + product.mT - own[:, :, None] - own[:, None, :] + 2.0 * flow * apart
        least, pair = change.flatten(1).min(dim=1)
        helps = least < -1e-9 * distances.shape[2]
        if not bool(helps.any()):
            break
        first, second = pair // n_units, pair % n_units
        exchange = _exchange(first, second, n_units, helps)
        flow = flow.gather(1, exchange[:, :, None].expand_as(flow)).gather(2, exchange[:, None, :].expand_as(flow))
        unit_at = unit_at.gather(1, exchange)
    return distances.gather(1, unit_at[..., None].expand_as(distances))


def _exchange(first: torch.Tensor, second: torch.Tensor, n_units: int, where: torch.Tensor) -> torch.Tensor:
    """The permutation ``(L, m)`` that exchanges two units in the layers ``where``, and does nothing elsewhere."""
    permutation = torch.arange(n_units, device=first.device).repeat(len(first), 1)
    permutation.scatter_(1, first[:, None], torch.where(where, second, first)[:, None])
    return permutation.scatter_(1, second[:, None], torch.where(where, first, second)[:, None])
