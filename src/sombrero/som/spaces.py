"""Where the batch rule measures distances: from inner products of samples (``GramSpace``) or in ``FeatureSpace``.

A codebook of the batch rule is a weighted mean of samples, ``W = P X``, so every distance follows from the inner
products ``G = X X^T`` and P alone. With fewer samples than features that is exact and costs no features at all. Both
spaces hold centred samples in float64 where the device has it: an epoch is chaotic at near ties, and float64 keeps the
outcome independent of the number of threads and of how layers are batched.

A unit's weights are written compactly: ``members (L, m, m)`` is the weight in unit j of each sample of cluster k, and
``best (L, n)`` says which cluster a sample is in, so ``P[l, j, i] = members[l, j, best[l, i]]``.
"""

from __future__ import annotations

from typing import Protocol

import torch

_GRAM_BLOCK = 512
"""Features in one product of the Gram matrix: short enough that no thread splits it, so that it is reproducible."""


class Space(Protocol):
    """Squared distances between samples, and from samples to weighted means of samples."""

    @property
    def shape(self) -> tuple[int, int]:
        """(L, n)."""
        ...

    def to_means(self, members: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to every unit, ``(L, m, n)``."""
        ...

    def to_samples(self, index: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to the samples ``index (L, k)``, ``(L, k, n)``."""
        ...


def precise_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def memberships(best: torch.Tensor, n_units: int, dtype: torch.dtype) -> torch.Tensor:
    """One row per unit: 1 where a sample is its own, else 0. ``(L, m, n)``."""
    own = torch.zeros(best.shape[0], n_units, best.shape[1], dtype=dtype, device=best.device)
    return own.scatter_(1, best[:, None, :], 1.0)


class GramSpace:
    """Distances from the inner products of the samples, ``gram (L, n, n)``."""

    def __init__(self, gram: torch.Tensor) -> None:
        self.gram = gram
        self.norms = gram.diagonal(dim1=1, dim2=2).contiguous()

    @property
    def shape(self) -> tuple[int, int]:
        """(L, n)."""
        return self.gram.shape[0], self.gram.shape[1]

    def to_means(self, members: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to every unit, ``(L, m, n)``."""
        sums = cluster_sums(self.gram, best, members.shape[1])
        products = members @ sums
        between = sums @ memberships(best, members.shape[1], sums.dtype).mT
        lengths = ((members @ between) * members).sum(dim=2)
        return products.mul_(-2.0).add_(self.norms[:, None]).add_(lengths[..., None]).clamp_(min=0.0)

    def to_samples(self, index: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to the samples ``index (L, k)``, ``(L, k, n)``."""
        rows = _rows(self.gram, index)
        own = self.norms.gather(1, index)
        return (own[..., None] + self.norms[:, None] - 2.0 * rows).clamp_(min=0.0)


class FeatureSpace:
    """Distances from the centred samples, ``samples (L, n, d)``."""

    def __init__(self, samples: torch.Tensor) -> None:
        self.samples = samples
        self.norms = samples.square().sum(dim=2)

    @property
    def shape(self) -> tuple[int, int]:
        """(L, n)."""
        return self.samples.shape[0], self.samples.shape[1]

    def to_means(self, members: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to every unit, ``(L, m, n)``."""
        return self._to_points(weighted_means(self.samples, members, best))

    def to_samples(self, index: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to the samples ``index (L, k)``, ``(L, k, n)``."""
        return self._to_points(_rows(self.samples, index))

    def _to_points(self, points: torch.Tensor) -> torch.Tensor:
        products = points @ self.samples.mT
        lengths = points.square().sum(dim=2)
        return products.mul_(-2.0).add_(self.norms[:, None]).add_(lengths[..., None]).clamp_(min=0.0)


def cluster_sums(rows: torch.Tensor, best: torch.Tensor, n_units: int) -> torch.Tensor:
    """Sum of the rows ``(L, n, k)`` of each cluster, ``(L, m, k)``."""
    if rows.device.type != "cpu":
        return memberships(best, n_units, rows.dtype) @ rows
    n_layers, _, width = rows.shape  # index_add is several times faster, but has a fixed order on the CPU alone
    cluster = best + n_units * torch.arange(n_layers)[:, None]
    sums = torch.zeros(n_layers * n_units, width, dtype=rows.dtype)
    return sums.index_add_(0, cluster.flatten(), rows.flatten(0, 1)).view(n_layers, n_units, width)


def weighted_means(samples: torch.Tensor, members: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """The codebook ``P X``, ``(L, m, d)``, in the dtype of samples ``(L, n, d)``."""
    return members.to(samples.dtype) @ cluster_sums(samples, best, members.shape[1])


def gram_matrix(samples: torch.Tensor) -> torch.Tensor:
    """Inner products of the rows of one layer's centred samples ``(n, d)``, ``(n, n)``, summed in ``precise_dtype``."""
    n = samples.shape[0]
    gram = torch.zeros(n, n, dtype=precise_dtype(samples.device), device=samples.device)
    for block in samples.split(_GRAM_BLOCK, dim=1):
        gram += block @ block.mT
    return gram


def _rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``table (L, n, k)`` at ``index (L, r)``, ``(L, r, k)``."""
    return table[torch.arange(len(table), device=table.device)[:, None], index]
