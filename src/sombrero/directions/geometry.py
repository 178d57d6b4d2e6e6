"""Geometry of a set of directions."""

from __future__ import annotations

import torch

PARALLEL = 1e-4
"""Unit directions whose span has a singular value below this share of the largest are counted as parallel."""


def cosine_matrix(vectors: torch.Tensor) -> torch.Tensor:
    """Cosines between directions: ``(..., m, d)`` to ``(..., m, m)`` float32."""
    unit = torch.nn.functional.normalize(vectors.to(torch.float32), dim=-1)
    return unit @ unit.mT


def effective_rank(vectors: torch.Tensor) -> torch.Tensor:
    """Effective number of dimensions that directions span: ``(..., m, d)`` to ``(...)`` float32.

    exp of the entropy of the normalised singular values of the unit directions (Roy & Vetterli 2007, definition 1):
    1 when all are parallel, m when all are orthogonal.
    """
    unit = torch.nn.functional.normalize(vectors.to(torch.float32), dim=-1)
    values = torch.linalg.svdvals(unit)
    share = values / values.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.exp(torch.special.entr(share).sum(dim=-1))


def principal_angles(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Angles between the spans of two direction sets at every layer, smallest first.

    first ``(L + 1, m, d)``, second ``(L + 1, k, d)``; returns ``(L + 1, min(m, k))`` float32 in radians: 0 is a shared
    direction, pi/2 one that is orthogonal to the other span. NaN where a span has fewer dimensions than directions.
    Sines of small angles and cosines of large ones, in float64 (Knyazev & Argentati 2002, algorithm 3.1).
    """
    found = torch.full((len(first), min(first.shape[1], second.shape[1])), float("nan"))
    for layer, (a, b) in enumerate(zip(first, second, strict=True)):
        bases = sorted((_orthonormal(a), _orthonormal(b)), key=lambda basis: basis.shape[1], reverse=True)
        larger, smaller = bases
        cosines = torch.linalg.svdvals(larger.T @ smaller).clamp(max=1.0)
        sines = torch.linalg.svdvals(smaller - larger @ (larger.T @ smaller)).clamp(max=1.0).flip(0)
        angles = torch.where(cosines.square() > 0.5, sines.asin(), cosines.acos())
        found[layer, : len(angles)] = angles.to(torch.float32)
    return found


def span_angles(first: torch.Tensor, second: torch.Tensor) -> tuple[float, ...]:
    """Principal angles between the spans of ``(m, d)`` and ``(k, d)`` in degrees, smallest first; none is NaN.

    As many as the smaller span has dimensions; a span of zeros alone is at 90 degrees to any.
    """
    found = principal_angles(first[None], second[None])[0].rad2deg()
    return tuple(found[~found.isnan()].tolist()) or (90.0,)


def _orthonormal(vectors: torch.Tensor) -> torch.Tensor:
    """Basis ``(d, k)`` float64 of the span of ``(m, d)``; lengths do not matter, and zero directions span nothing."""
    unit = torch.nn.functional.normalize(vectors.to(torch.float64), dim=-1)
    left, values, _ = torch.linalg.svd(unit.T, full_matrices=False)
    kept: torch.Tensor = left[:, values > PARALLEL * values.max().clamp_min(torch.finfo(torch.float64).tiny)]
    return kept
