"""The least squares of the rule ``guarded``, solved once per writer for every weight of the guards.

For one writer and one ridge the system is ``(P + beta Q) A = B`` with P from harmful keys and Q from harmless keys. It
is factorised at a few betas, where the solution and its first derivatives in beta are computed. Between them the
solution is the best one (in the energy of the system, Galerkin) in the span of all these, on which P and Q are
diagonalised together: rational Krylov (Ruhe 1984), or the reduced basis method (Maday et al. 2002). A is analytic in
log beta, with its poles at ``+-i pi``, so the error falls geometrically with what is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sombrero.errors import NumericalError

BETA_RANGE = (0.2, 8.0)
"""Weights of the guards that a solution covers."""
NODES = 3
"""Betas at which the system is factorised."""
DERIVATIVES = 2
"""Derivatives of the solution at each. With so many the rest are right to the rounding of a solution in float32."""
INDEPENDENT = 1e-10
"""Of the node solutions, what adds less than this share of the largest squared length to the span is left out."""
MAX_CONDITION = 1e6
"""Beyond this a factorisation in float32 is rounding."""


@dataclass(frozen=True)
class GuardedSolution:
    """``A(beta) = span diag(1 / (rates + beta)) right``: span ``(d_in, D)``, rates ``(D,)``, right ``(D, m)``."""

    span: torch.Tensor
    rates: torch.Tensor
    right: torch.Tensor

    def at(self, beta: float, columns: list[int]) -> torch.Tensor:
        """The solution ``(d_in, len(columns))`` for these directions; beta within :data:`BETA_RANGE`."""
        return self.span @ (self.right[:, columns] / (self.rates + beta)[:, None])


def solve_guarded(
    harmful_keys: torch.Tensor, harmless_keys: torch.Tensor, WtR: torch.Tensor, *, alpha: float, writer: str
) -> GuardedSolution:
    """For every beta the A ``(d_in, m)`` that minimises, over harmful keys ``X_h`` and harmless keys ``X_g``,

    ``|X_h A - T|^2 / n_h + beta |X_g A|^2 / n_g + alpha t |A|^2``, with ``T = (X_h - x_g) W^T R`` the excess of what is
    written over the mean ``x_g`` of the harmless keys at the same position. ``t`` is the mean eigenvalue of the matrix
    of the first two terms, so alpha has no units.

    Keys are ``(n, P, d_in)`` float32: P positions of each prompt, every one a sample. With fewer samples than inputs
    the system is solved among the samples (Woodbury), else among the inputs.

    Raises NumericalError naming the writer, with the condition number, when the system is singular.
    """
    excess = ((harmful_keys - harmless_keys.mean(dim=0)) @ WtR).flatten(0, 1)
    system = _System(harmful_keys.flatten(0, 1), harmless_keys.flatten(0, 1), excess, alpha, writer)
    low, high = (math.log(beta) for beta in BETA_RANGE)
    angles = ((2 * j + 1) * math.pi / (2 * NODES) for j in range(NODES))
    nodes = [math.exp((low + high) / 2 + (high - low) / 2 * math.cos(angle)) for angle in angles]
    return system.reduce(orthonormal(torch.cat(system.solve(nodes), dim=1)))


class _System:
    """``P + beta Q`` with ``P = X_h^T X_h / n_h + alpha p_h I`` and Q likewise; X_h and X_g are held scaled.

    Among the inputs, P and Q are ``(d_in, d_in)``. Among the n samples every vector is ``X^T z`` with X the rows of
    both, and ``(P + beta Q) X^T z = X^T (D G + r I) z`` with ``G = X X^T``, D 1 for harmful rows and beta for harmless
    ones, r the ridge: with ``(G + r / D) z = y / D`` the system is symmetric again.
    """

    def __init__(self, X_h: torch.Tensor, X_g: torch.Tensor, excess: torch.Tensor, alpha: float, writer: str) -> None:
        self._moved, self._held = X_h * len(X_h) ** -0.5, X_g * len(X_g) ** -0.5
        self._wanted = excess * len(X_h) ** -0.5
        self._d_in, self._alpha, self._writer = X_h.shape[1], alpha, writer
        # the ridge alpha t(beta) is linear in beta, so each part carries its own
        self._ridge_h, self._ridge_g = (
            alpha * float(rows.square().sum()) / self._d_in for rows in (self._moved, self._held)
        )

    def solve(self, betas: list[float]) -> list[torch.Tensor]:
        """The exact solution ``(d_in, m)`` at each of these betas, and its derivatives up to a factor."""
        among_samples = len(self._moved) + len(self._held) < self._d_in
        return self._solve_among_samples(betas) if among_samples else self._solve_among_inputs(betas)

    def _solve_among_inputs(self, betas: list[float]) -> list[torch.Tensor]:
        P, Q, right = gram(self._moved), gram(self._held), self._moved.T @ self._wanted
        P.diagonal().add_(self._ridge_h)
        Q.diagonal().add_(self._ridge_g)
        found = []
        for beta in betas:
            factor = self._factorised(P + beta * Q, beta)
            A = torch.cholesky_solve(right, factor)
            found.append(A)
            for _ in range(DERIVATIVES):
                A = torch.cholesky_solve(Q @ A, factor)
                found.append(A)
        return found

    def _solve_among_samples(self, betas: list[float]) -> list[torch.Tensor]:
        rows, n_h = torch.cat([self._moved, self._held]), len(self._moved)
        G = rows @ rows.T
        right = torch.cat([self._wanted, self._wanted.new_zeros(len(self._held), self._wanted.shape[1])])
        found = []
        for beta in betas:
            weights = torch.cat([torch.ones(n_h), torch.full((len(self._held),), beta)])
            system = G + torch.diag((self._ridge_h + beta * self._ridge_g) / weights)
            factor, y = self._factorised(system, beta), right
            for _ in range(DERIVATIVES + 1):
                z = torch.cholesky_solve(y / weights[:, None], factor)
                found.append(rows.T @ z)
                y = self._ridge_g * z
                y[n_h:] += G[n_h:] @ z
        return found

    def reduce(self, K: torch.Tensor) -> GuardedSolution:
        """The system on the span of K ``(d_in, D)``, orthonormal, with both of its parts diagonal."""
        moved, held = (self._moved @ K).double(), (self._held @ K).double()
        identity = torch.eye(K.shape[1], dtype=torch.float64)
        P = moved.T @ moved + self._ridge_h * identity
        Q = held.T @ held + self._ridge_g * identity
        lower, info = torch.linalg.cholesky_ex(Q)
        if int(info) != 0:
            raise singular_system(Q, self._ridge_g, self._alpha, self._writer)
        half = torch.linalg.solve_triangular(lower, P, upper=False)
        rates, turned = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
        S = torch.linalg.solve_triangular(lower.T, turned, upper=True)
        right = S.T @ (moved.T @ self._wanted.double())
        return GuardedSolution((K.double() @ S).float(), rates.float(), right.float())

    def _factorised(self, system: torch.Tensor, beta: float) -> torch.Tensor:
        ridge = self._ridge_h + beta * self._ridge_g
        factor, info = torch.linalg.cholesky_ex(system)
        pivots = factor.diagonal()
        if int(info) != 0 or not ridge > 0 or float(pivots.max() / pivots.min()) ** 2 > MAX_CONDITION:
            raise singular_system(system, ridge, self._alpha, self._writer)
        return torch.as_tensor(factor)


def singular_system(matrix: torch.Tensor, ridge: float, alpha: float, writer: str) -> NumericalError:
    """The error that says which writer's system cannot be solved, and how badly it is conditioned."""
    finite = bool(torch.isfinite(matrix).all())
    values = torch.linalg.eigvalsh(matrix.double()) if finite else torch.tensor([0.0])
    condition = float(values[-1] / values[0]) if float(values[0]) > 0 else math.inf
    return NumericalError(
        f"the guarded edit of writer {writer} has no stable solution (condition number {condition:.3g}, "
        f"ridge {ridge:.3g}, alpha {alpha:g}); raise alpha, or check that its inputs are finite and not constant"
    )


def orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis ``(d_in, D)`` of the columns' span, by the eigenvectors of their Gram matrix in float64."""
    norms = columns.norm(dim=0)
    unit = torch.Tensor.double(columns[:, norms > 0] / norms[norms > 0])
    if unit.shape[1] == 0:  # nothing is to be moved, and the solution is zero
        return columns[:, :0]
    values, vectors = torch.linalg.eigh(unit.T @ unit)
    keep = values > INDEPENDENT * values[-1]
    basis: torch.Tensor = unit @ (vectors[:, keep] / values[keep].sqrt())
    return basis.float()


def gram(rows: torch.Tensor, block: int = 256) -> torch.Tensor:
    """``rows^T rows``, of which only blocks on and below the diagonal are computed."""
    d = rows.shape[1]
    gram = rows.new_empty(d, d)
    for begin in range(0, d, block):
        part = rows[:, begin:].T @ rows[:, begin : begin + block]
        gram[begin:, begin : begin + block] = part
        gram[begin : begin + block, begin:] = part.T
    return gram
