"""The batch rule: all units become weighted means at once (Kohonen, Neural Networks 37, 2013), for all layers at once.

Pure functions of tensors; layers never mix.
"""

from __future__ import annotations

import numpy as np
import torch

from sombrero.som.quality import hit_counts
from sombrero.som.relocation import arrange, relocate
from sombrero.som.spaces import Space
from sombrero.som.training import Training

ORDERING_EPOCHS = 5
SETTLING_EPOCHS = 2


def final_sigma(training: Training) -> float:
    """The width that the online rule ends with, a third of the one it begins with."""
    return training.sigma / 3.0


def batch(space: Space, units: torch.Tensor, training: Training) -> tuple[torch.Tensor, torch.Tensor]:
    """Train from first units: the squared distance of every sample to them, ``(L, m, n)``.

    Returns ``members (L, m, m)`` and ``best (L, n)``, which give the codebook (``spaces.weighted_means``).

    Ordering: sigma falls geometrically from half the grid to ``training.sigma``. Then, at the final sigma: units that
    are wasted move where samples are badly represented, as long as this lowers the quantization error; the units are
    arranged on the grid again; a few epochs settle them.
    """
    on_lattice = training.distances(units)
    final = final_sigma(training)

    def refit(distances: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        best = distances.min(dim=1).indices
        return training.cluster_weights(hit_counts(best, len(on_lattice)), on_lattice, sigma), best

    def epoch(distances: torch.Tensor, sigma: float, within: Space = space) -> torch.Tensor:
        return within.to_means(*refit(distances, sigma))

    for sigma in np.geomspace(max(training.lattice.widest_sigma, training.sigma), training.sigma, ORDERING_EPOCHS):
        units = epoch(units, float(sigma))
    for _ in range(SETTLING_EPOCHS):
        units = epoch(units, final)
    relocated = relocate(units, space, lambda within, distances: epoch(distances, final, within))
    units = arrange(relocated, training.lattice)
    for _ in range(SETTLING_EPOCHS):
        units = epoch(units, final)
    return refit(units, final)
