"""The rules: how ``A`` and ``c`` of an edit follow from a writer's weight and the chosen directions (DESIGN §2).

All are pure and exact in low-rank form. ``R`` ``(d, K)`` holds the chosen directions as columns, ``WtR`` ``(d_in, K)``
is ``W^T R``: computed once per writer, it serves every subset and strength.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def guarded(basis: Basis, solution: torch.Tensor, strength: float) -> LowRankEdit:
    """Move harmful keys by their measured excess over the harmless mean, and hold harmless keys still.

    ``solution`` ``(d_in, K)`` is that of :func:`solve_guarded` for the chosen directions; it is linear in them. The
    bias cancels in the excess, so the edit has no c.
    """
    return LowRankEdit(basis.V, solution @ basis.combine, None, strength)


def solve_guarded(
    harmful_keys: torch.Tensor,
    harmless_keys: torch.Tensor,
    WtR: torch.Tensor,
    *,
    alpha: float,
    betas: Iterable[float],
    writer: str,
) -> dict[float, torch.Tensor]:
    """For each beta the A ``(d_in, m)`` that minimises, over harmful keys ``X_h`` and harmless keys ``X_g``,

    ``|X_h A - T|^2 / n_h + beta |X_g A|^2 / n_g + alpha t |A|^2``, with ``T = (X_h - x_g) W^T R`` the excess of what is
    written over the mean ``x_g`` of the harmless keys at the same position. ``t`` is the mean eigenvalue of the matrix
    of the first two terms, so alpha has no units.

    Keys are ``(n, P, d_in)``: P positions of each prompt, every one a sample. With fewer samples than inputs the system
    is solved among the samples (Woodbury), else among the inputs.

    Raises NumericalError naming the writer, with the condition number, when the system is singular.
    """
    d_in = WtR.shape[0]
    T = ((harmful_keys - harmless_keys.mean(dim=0)) @ WtR).flatten(0, 1)
    X_h, X_g = harmful_keys.flatten(0, 1), harmless_keys.flatten(0, 1)
    n_h, n_g = len(X_h), len(X_g)
    powers = float(X_h.square().sum()) / n_h, float(X_g.square().sum()) / n_g
    ridges = {beta: alpha * (powers[0] + beta * powers[1]) / d_in for beta in betas}
    if n_h + n_g < d_in:
        found = {}
        for beta, ridge in ridges.items():
            X = torch.cat([X_h * n_h**-0.5, X_g * (beta / n_g) ** 0.5])
            wanted = torch.cat([T * n_h**-0.5, T.new_zeros(n_g, T.shape[1])])
            found[beta] = X.T @ _solve(X @ X.T, ridge, wanted, writer)
        return found
    H, G, right = X_h.T @ X_h / n_h, X_g.T @ X_g / n_g, X_h.T @ T / n_h
    return {beta: _solve(H + beta * G, ridge, right, writer) for beta, ridge in ridges.items()}


def _solve(gram: torch.Tensor, ridge: float, right: torch.Tensor, writer: str) -> torch.Tensor:
    system = gram + ridge * torch.eye(gram.shape[0])
    factor, info = torch.linalg.cholesky_ex(system)
    if int(info) != 0 or not ridge > 0:
        condition = float(torch.linalg.cond(system.to(torch.float64)))
        raise NumericalError(
            f"the guarded edit of writer {writer} has no stable solution (condition number {condition:.3g}, "
            f"ridge {ridge:.3g}); raise alpha, or check that its inputs are not constant"
        )
    solution: torch.Tensor = torch.cholesky_solve(right, factor)
    return solution
