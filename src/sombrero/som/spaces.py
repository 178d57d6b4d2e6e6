"""Where the batch rule measures distances: from inner products of samples (``GramSpace``) or in ``FeatureSpace``.

A codebook of the batch rule is a weighted mean of samples, ``W = P X``, so every distance follows from the inner
products ``G = X X^T`` and P alone. With fewer samples than features that is exact and costs no features at all. Both
spaces are of centred samples and reckon in float64 where the device has it, but for sums in a fixed order: an epoch is
chaotic at near ties, and so the outcome does not depend on the number of threads or on how layers are batched.

A unit's weights are written compactly: ``members (L, m, m)`` is the weight in unit j of each sample of cluster k, and
``best (L, n)`` says which cluster a sample is in, so ``P[l, j, i] = members[l, j, best[l, i]]``.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Protocol

import torch

_GRAM_COLUMNS = 32
"""Columns in one product of the Gram matrix, of which the upper half is copied."""

_NO_WIDTH = 1e-6
"""Principal directions that are narrower than the widest by this factor hold rounding alone."""
_POWER_ITERATIONS = 3


class Space(Protocol):
    """Squared distances between samples, and from samples to weighted means of samples.

    norms ``(L, n)``: squared lengths of the samples, in the dtype and on the device of the distances.
    """

    norms: torch.Tensor

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

    def to_weighted(self, weights: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to the points ``weights (L, m, n)`` times samples, ``(L, m, n)``."""
        ...

    def principal_axes(self, k: int) -> torch.Tensor:
        """Unit scores ``a (L, n, k)`` of the principal components of samples X less their mean, widest first.

        ``X^T a`` is a component's direction times its singular value; a is 0 where there is none.
        """
        ...

    def of_layers(self, chosen: torch.Tensor) -> Space:
        """The space of the layers where chosen ``(L,)`` is true."""
        ...


def precise_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def memberships(best: torch.Tensor, n_units: int, dtype: torch.dtype) -> torch.Tensor:
    """One row per unit: 1 where a sample is its own, else 0. ``(L, m, n)``."""
    own = torch.zeros(best.shape[0], n_units, best.shape[1], dtype=dtype, device=best.device)
    return own.scatter_(1, best[:, None, :], 1.0)


class GramSpace:
    """Distances from the inner products of the samples, ``gram (L, n, n)``; float32 ones are kept as they are."""

    def __init__(self, gram: torch.Tensor) -> None:
        self.gram = gram
        self.norms = gram.diagonal(dim1=1, dim2=2).to(precise_dtype(gram.device), copy=True)

    @property
    def shape(self) -> tuple[int, int]:
        """(L, n)."""
        return self.gram.shape[0], self.gram.shape[1]

    def to_means(self, members: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to every unit, ``(L, m, n)``."""
        sums, between = self._clusters(best, members.shape[1])
        lengths = ((members @ between) * members).sum(dim=2)
        return self._squares(members, sums, lengths)

    def between_means(self, members: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
        """Inner products of the units, ``(L, m, m)``."""
        return members @ self._clusters(best, members.shape[1])[1] @ members.mT

    def to_samples(self, index: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to the samples ``index (L, k)``, ``(L, k, n)``."""
        own = self.norms.gather(1, index)
        rows = rows_at(self.gram, index).to(own.dtype)
        return rows.mul_(-2.0).add_(self.norms[:, None]).add_(own[..., None]).clamp_(min=0.0)

    def to_weighted(self, weights: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to the points ``weights (L, m, n)`` times samples, ``(L, m, n)``."""
        gram = self.gram.to(weights.dtype)
        return self._squares(weights, gram, ((weights @ gram) * weights).sum(dim=2))

    def principal_axes(self, k: int) -> torch.Tensor:
        """Unit scores ``a (L, n, k)`` of the principal components of samples X less their mean, widest first.

        ``X^T a`` is a component's direction times its singular value; a is 0 where there is none.
        """
        gram = self.gram.to(self.norms.dtype)
        gram = gram - gram.mean(dim=1, keepdim=True)
        gram = gram - gram.mean(dim=2, keepdim=True)  # now that of the samples less their mean
        squares, axes = torch.linalg.eigh(gram)
        squares, axes = squares[..., -k:].flip(1), axes[..., -k:].flip(2)
        wide = squares > _NO_WIDTH**2 * squares[:, :1]
        return _signed(axes * wide[:, None])

    def of_layers(self, chosen: torch.Tensor) -> GramSpace:
        """The space of the layers where chosen ``(L,)`` is true."""
        part = copy.copy(self)
        part.gram, part.norms = self.gram[chosen], self.norms[chosen]
        return part

    def _clusters(self, best: torch.Tensor, n_units: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Products of the sum of each cluster with every sample ``(L, m, n)``, and with the sums ``(L, m, m)``."""
        sums = cluster_sums(self.gram, best, n_units).to(self.norms.dtype)
        return sums, sums @ memberships(best, n_units, sums.dtype).mT

    def _squares(self, weights: torch.Tensor, products: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        squares = torch.baddbmm(self.norms[:, None], weights, products, alpha=-2.0)
        return squares.add_(lengths[..., None]).clamp_(min=0.0)


class FeatureSpace:
    """Distances from the centred samples, ``samples (L, n, d)``.

    norms ``(L, n)``: their squared lengths; give them where samples are only the part of each that lies in a subspace,
    and distances are those of the whole sample to points in the subspace.
    """

    def __init__(self, samples: torch.Tensor, norms: torch.Tensor | None = None) -> None:
        self.samples = samples
        self.norms = samples.square().sum(dim=2) if norms is None else norms

    @property
    def shape(self) -> tuple[int, int]:
        """(L, n)."""
        return self.samples.shape[0], self.samples.shape[1]

    def to_means(self, members: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to every unit, ``(L, m, n)``."""
        return self._to_points(weighted_means(self.samples, members, best))

    def to_samples(self, index: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to the samples ``index (L, k)``, ``(L, k, n)``."""
        return self._to_points(rows_at(self.samples, index))

    def to_weighted(self, weights: torch.Tensor) -> torch.Tensor:
        """Squared distance of every sample to the points ``weights (L, m, n)`` times samples, ``(L, m, n)``."""
        return self._to_points(weights @ self.samples)

    def principal_axes(self, k: int) -> torch.Tensor:
        """Unit scores ``a (L, n, k)`` of the principal components of samples X less their mean, widest first.

        ``X^T a`` is a component's direction times its singular value; a is 0 where there is none.
        """
        n, d = self.samples.shape[1:]
        if n <= d:
            return GramSpace(self.samples @ self.samples.mT).principal_axes(k)
        samples = self.samples - self.samples.mean(dim=1, keepdim=True)
        squares, directions = torch.linalg.eigh(samples.mT @ samples)
        directions = directions[..., -k:].flip(2)
        widths = squares[..., -k:].flip(1).clamp(min=0.0).sqrt()
        scores = samples @ directions
        scores = scores / torch.where(widths > _NO_WIDTH * widths[:, :1], widths, float("inf"))[:, None]
        return _signed(torch.nn.functional.pad(scores, (0, k - scores.shape[2])))

    def of_layers(self, chosen: torch.Tensor) -> FeatureSpace:
        """The space of the layers where chosen ``(L,)`` is true."""
        return FeatureSpace(self.samples[chosen], self.norms[chosen])

    def _to_points(self, points: torch.Tensor) -> torch.Tensor:
        squares = torch.baddbmm(self.norms[:, None], points, self.samples.mT, alpha=-2.0)
        return squares.add_(points.square().sum(dim=2)[..., None]).clamp_(min=0.0)


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


def gram_matrix(samples: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Inner products of the rows of one layer's centred samples ``(n, d)``, ``(n, n)`` in their dtype, in ``out``."""
    n = samples.shape[0]
    gram = torch.empty(n, n, dtype=samples.dtype, device=samples.device) if out is None else out
    for start in range(0, n, _GRAM_COLUMNS):
        stop = min(start + _GRAM_COLUMNS, n)
        gram[start:, start:stop] = _row_products(samples[start:], samples[start:stop])
        gram[start:stop, stop:] = gram[stop:, start:stop].mT
    return gram


def _row_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products of the rows of two matrices: by oneDNN with AVX-512, an eighth faster."""
    if a.device.type == "cpu" and a.dtype == torch.float32 and _has_avx512():
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")  # type: ignore[no-any-return]
    return a @ b.mT


@cache
def _has_avx512() -> bool:
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def widest_directions(gram: torch.Tensor, samples: torch.Tensor, k: int) -> torch.Tensor:
    """Orthonormal directions ``(d, <= k)`` that span about the k widest of samples ``(s, d)``, ``gram`` their products.

    A subspace iteration from k of the samples (Halko, Martinsson & Tropp 2011, algorithm 4.4): all eigenvectors of gram
    would cost more than the rest of a map. Fewer than k where the samples span fewer.
    """
    gram = gram.to(precise_dtype(gram.device))
    scores = gram[:, torch.linspace(0, len(gram) - 1, min(k, len(gram)), device=gram.device).long()]
    for _ in range(_POWER_ITERATIONS):
        scores = gram @ torch.linalg.qr(scores).Q
    scores = torch.linalg.qr(scores).Q
    squares, turn = torch.linalg.eigh(scores.mT @ gram @ scores)
    wide = squares > _NO_WIDTH**2 * squares[-1].clamp(min=torch.finfo(squares.dtype).tiny)
    directions: torch.Tensor = samples.mT @ (scores @ (turn[:, wide] / squares[wide].sqrt())).to(samples.dtype)
    return directions


def _signed(axes: torch.Tensor) -> torch.Tensor:
    """Each column with its largest entry positive: an eigenvector's sign is arbitrary."""
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return axes * torch.where(largest < 0.0, -1.0, 1.0)


def rows_at(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``table (L, n, k)`` at ``index (L, r)``, ``(L, r, k)``."""
    return table[torch.arange(len(table), device=table.device)[:, None], index]
