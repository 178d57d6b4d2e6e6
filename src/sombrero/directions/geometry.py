"""Geometry of a set of directions."""

from __future__ import annotations

import torch


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
