"""What units learned on one half of the samples say about the other half: error, prediction strength, agreement.

Everything is computed from inner products of samples, for many problems at once: a problem is one layer's samples in
one order, whose first half and second half learn from and test each other.

A candidate is judged by the codebook that both training rules of the map end in: at their final sigma of a tenth of the
grid, a neighbour's weight is exp(-50), so each unit is the mean of its own samples. That fixed point is reached here
from Ward's clusters (Ward 1963), which cost one tree for all candidates and depend on no seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage

from sombrero.som.spaces import memberships

LLOYD_EPOCHS = 12
"""Epochs of best units and means after Ward's clusters; most problems stand still after four."""


@dataclass(frozen=True)
class HeldOut:
    """Figures of P problems and S candidates, each ``(P, S)`` float64, the mean of both halves in the role of the test.

    error: mean distance of a test sample to its best unit. strength: prediction strength. rand: adjusted Rand index of
    the test half's own units and the units that it is assigned to.
    """

    error: torch.Tensor
    strength: torch.Tensor
    rand: torch.Tensor


def held_out(gram: torch.Tensor, candidates: list[int]) -> HeldOut:
    """Compare the halves of every problem. gram ``(P, 2 h, 2 h)`` float64, inner products; candidates at most h."""
    h = gram.shape[1] // 2
    own = [gram[:, :h, :h].contiguous(), gram[:, h:, h:].contiguous()]
    across = [gram[:, :h, h:].contiguous(), gram[:, h:, :h].contiguous()]
    starts = [ward_clusters(half, candidates) for half in own]
    figures = []
    for index, k in enumerate(candidates):
        learned = [_settled(half, start[index], k) for half, start in zip(own, starts, strict=True)]
        figures.append(
            torch.stack([_tested(own, across, learned, k, trained) for trained in (0, 1)]).mean(dim=0)  # (3, P)
        )
    error, strength, rand = torch.stack(figures, dim=2)
    return HeldOut(error, strength, rand)


def ward_clusters(gram: torch.Tensor, candidates: list[int]) -> torch.Tensor:
    """Ward's clusters of ``gram (P, n, n)`` for each number of clusters, ``(S, P, n)`` int64, numbered from 0."""
    norms = gram.diagonal(dim1=1, dim2=2)
    lengths = (norms[:, :, None] + norms[:, None] - 2.0 * gram).clamp_(min=0.0).sqrt_()
    n_problems, n, _ = gram.shape
    first, second = np.triu_indices(n, 1)
    pairs = lengths.numpy()[:, first, second]
    trees = np.stack([linkage(row, "ward")[:, :2].astype(np.int64) for row in pairs]) if n > 1 else None
    labels = np.tile(np.arange(n), (n_problems, 1))
    found: dict[int, NDArray[np.int64]] = {}
    for n_clusters in range(n, 0, -1):
        if n_clusters in candidates:
            found[n_clusters] = _numbered(labels)
        if trees is not None and n_clusters > 1:
            merged = trees[:, n - n_clusters, :, None]
            joined = (labels == merged[:, 0]) | (labels == merged[:, 1])
            labels[joined] = 2 * n - n_clusters  # scipy numbers the cluster of step t as n + t
    return torch.from_numpy(np.stack([found[k] for k in candidates]))


def _numbered(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every row's distinct labels replaced by 0, 1, 2 ... in their order."""
    order = labels.argsort(axis=1, kind="stable")
    ranked = np.take_along_axis(labels, order, axis=1)
    steps = np.diff(ranked, axis=1, prepend=ranked[:, :1]) != 0
    numbered = np.empty_like(labels)
    np.put_along_axis(numbered, order, steps.cumsum(axis=1), axis=1)
    return numbered


def _units(gram: torch.Tensor, labels: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Units as weights of samples ``(P, k, n)``, and their squared lengths ``(P, k)``, infinite for an empty unit."""
    weights = memberships(labels, k, gram.dtype)
    sizes = weights.sum(dim=2, keepdim=True)
    weights /= sizes.clamp(min=1.0)
    lengths = ((weights @ gram) * weights).sum(dim=2)
    return weights, lengths.masked_fill_(sizes[..., 0] == 0.0, float("inf"))


def _settled(gram: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """Best units ``(P, n)`` after epochs of means and best units."""
    for _ in range(LLOYD_EPOCHS if k > 1 else 0):
        weights, lengths = _units(gram, labels, k)
        moved = (lengths[..., None] - 2.0 * weights @ gram).argmin(dim=1)
        if torch.equal(moved, labels):
            break
        labels = moved
    return labels


def _tested(
    own: list[torch.Tensor], across: list[torch.Tensor], learned: list[torch.Tensor], k: int, trained: int
) -> torch.Tensor:
    """Error, strength and rand ``(3, P)`` of the units of half ``trained`` on the other half."""
    tested = 1 - trained
    weights, lengths = _units(own[trained], learned[trained], k)
    norms = own[tested].diagonal(dim1=1, dim2=2)
    squared = norms[:, None] + lengths[..., None] - 2.0 * weights @ across[trained]
    nearest, assigned = squared.clamp_(min=0.0).min(dim=1)
    shared = memberships(learned[tested], k, nearest.dtype) @ memberships(assigned, k, nearest.dtype).mT
    return torch.stack([nearest.sqrt().mean(dim=1), prediction_strength(shared), adjusted_rand(shared)])


def prediction_strength(shared: torch.Tensor) -> torch.Tensor:
    """Prediction strength (Tibshirani & Walther 2005, eq. 2.1) of contingency tables ``(P, k, k)``, ``(P,)``.

    shared[p, a, b]: how many test samples of their own cluster a the training units assign to b. The share of pairs of
    samples of a cluster that stay together, for the cluster where it is least. One unit has strength 1; a cluster of
    one sample has no pair that could have stayed together, and counts as 0.
    """
    if shared.shape[1] == 1:
        return torch.ones_like(shared[:, 0, 0])
    sizes = shared.sum(dim=2)
    together = (shared * (shared - 1.0)).sum(dim=2) / (sizes * (sizes - 1.0)).clamp(min=1.0)
    return together.masked_fill(sizes == 0.0, 1.0).amin(dim=1)


def adjusted_rand(shared: torch.Tensor) -> torch.Tensor:
    """Adjusted Rand index (Hubert & Arabie 1985) of contingency tables ``(P, k, k)``, ``(P,)``.

    1 where neither side parts any two samples.
    """

    def pairs(counts: torch.Tensor) -> torch.Tensor:
        return (counts * (counts - 1.0) / 2.0).flatten(1).sum(dim=1)

    rows, columns, total = pairs(shared.sum(dim=2)), pairs(shared.sum(dim=1)), pairs(shared.sum(dim=(1, 2))[:, None])
    expected, most = rows * columns / total.clamp(min=1.0), (rows + columns) / 2.0
    index = (pairs(shared) - expected) / (most - expected)
    return torch.where(most > expected, index, torch.ones_like(index))
