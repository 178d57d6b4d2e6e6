"""The rules: how ``A`` and ``c`` of an edit follow from a writer's weight and the chosen directions (DESIGN §2).

All are pure and exact in low-rank form. ``R`` ``(d, K)`` holds the chosen directions as columns, ``WtR`` ``(d_in, K)``
is ``W^T R``: computed once per writer, it serves every subset and strength.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sombrero.errors import NumericalError
from sombrero.records import LowRankEdit

PARALLEL = 1e-4
"""Directions whose span has a singular value below this share of the largest are counted as parallel."""


@dataclass(frozen=True)
class Basis:
    """Orthonormal basis of the chosen directions. V ``(d, k)``; combine ``(K, k)`` with ``V = R @ combine``."""

    V: torch.Tensor
    combine: torch.Tensor


def orthonormal_basis(R: torch.Tensor) -> Basis:
    """Basis of the span of R ``(d, K)`` float32 by singular value decomposition; parallel directions are merged.

    Raises NumericalError when every direction is zero or one is not finite.
    """
    norms = R.norm(dim=0)
    if not bool(torch.isfinite(norms).all()) or float(norms.max()) == 0.0:
        raise NumericalError(f"the chosen directions have norms {norms.tolist()}: nothing to remove along")
    scale = torch.where(norms > 0, 1 / norms.clamp_min(torch.finfo(R.dtype).tiny), torch.zeros_like(norms))
    left, values, right = torch.linalg.svd(R * scale, full_matrices=False)
    keep = values > PARALLEL * values[0]
    return Basis(left[:, keep], scale[:, None] * right.T[:, keep] / values[keep])


def project(basis: Basis, WtR: torch.Tensor, bias: torch.Tensor | None, strength: float) -> LowRankEdit:
    """Remove the component of y in the span (Arditi et al. 2024, eq. 4, for a span): ``A = W^T V``, ``c = V^T b``."""
    c = None if bias is None else basis.V.T @ bias
    return LowRankEdit(basis.V, WtR @ basis.combine, c, strength)


def compose(
    R: torch.Tensor, basis: Basis, WtR: torch.Tensor, bias: torch.Tensor | None, strength: float
) -> LowRankEdit:
    """One rank-one projection after the other, on r_1 first (Piras et al. 2026): ``y' = prod_j (I - s r_j r_j^T) y``.

    Inside the span the product is a k by k matrix ``I - N``, so ``A = W^T V N^T`` and ``c = N V^T b``. The strength
    acts in each factor, hence the edit itself has strength 1.
    """
    coordinates = torch.nn.functional.normalize(basis.V.T @ R, dim=0)
    remaining = torch.eye(basis.V.shape[1], dtype=R.dtype, device=R.device)
    for g in coordinates.T:
        remaining = remaining - strength * torch.outer(g, g @ remaining)
    removed = torch.eye(remaining.shape[0], dtype=R.dtype, device=R.device) - remaining
    c = None if bias is None else removed @ (basis.V.T @ bias)
    return LowRankEdit(basis.V, WtR @ basis.combine @ removed.T, c, 1.0)


def guarded(
    operator: torch.Tensor, centred_keys: torch.Tensor, basis: Basis, WtR: torch.Tensor, strength: float
) -> LowRankEdit:
    """Move harmful keys by their measured excess over the harmless mean, and hold harmless keys still.

    ``A = P (X_h - 1 x_g^T) W^T V`` with ``P`` from :func:`guard_operator`, ``centred_keys`` ``(n_h, d_in)``. The bias
    cancels in the excess, so the edit has no c.
    """
    return LowRankEdit(basis.V, operator @ (centred_keys @ (WtR @ basis.combine)), None, strength)


def guard_operator(
    harmful_keys: torch.Tensor, harmless_keys: torch.Tensor, *, alpha: float, beta: float, writer: str
) -> torch.Tensor:
    """``P = M^-1 X_h^T / n_h`` ``(d_in, n_h)``, ``M = X_h^T X_h / n_h + beta X_g^T X_g / n_g + alpha t I``.

    It maps wanted changes of the harmful keys to the least-squares A. ``t`` is the mean eigenvalue of the first two
    terms, so alpha has no units. With fewer samples than features the system is solved among the samples (Woodbury).

    Raises NumericalError naming the writer, with the condition number, when the system is singular.
    """
    n_h, n_g = len(harmful_keys), len(harmless_keys)
    X = torch.cat([harmful_keys * n_h**-0.5, harmless_keys * (beta / n_g) ** 0.5])
    ridge = alpha * float(X.square().sum()) / X.shape[1]
    if X.shape[0] < X.shape[1]:
        solved = _solve(X @ X.T, ridge, torch.eye(X.shape[0])[:, :n_h], writer)
        operator: torch.Tensor = X.T @ solved * n_h**-0.5
        return operator
    return _solve(X.T @ X, ridge, harmful_keys.T / n_h, writer)


def _solve(gram: torch.Tensor, ridge: float, right: torch.Tensor, writer: str) -> torch.Tensor:
    system = gram + ridge * torch.eye(gram.shape[0])
    factor, info = torch.linalg.cholesky_ex(system)
    if int(info) != 0 or not ridge > 0:
        condition = float(torch.linalg.cond(system.to(torch.float64)))
        raise NumericalError(
            f"the guarded edit of writer {writer} has no stable solution (condition number {condition:.3g}, "
            f"ridge {ridge:.3g}); raise alpha, or check that its inputs are not constant"
        )
    solution: torch.Tensor = torch.cholesky_solve(right.contiguous(), factor)
    return solution
