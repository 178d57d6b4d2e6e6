"""The least squares of the rule ``guarded`` with two sorts of guards, solved once per writer for all of their weights.

For one writer and one ridge the system is ``(P + beta Q + gamma S) A = B``: P from the keys that are moved, Q from
harmless keys, S from the keys of true refusals. It is factorised at a grid of weights. Between them the solution is the
best one (in the energy of the system, Galerkin) in the span of all these, on which a trial solves a small system: the
reduced basis method (Maday et al. 2002), as in :mod:`sombrero.edits.guards` for one sort of guards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from sombrero.edits.guards import BETA_RANGE, MAX_CONDITION, gram, orthonormal, singular_system
from sombrero.errors import UsageError

GAMMA_RANGE = (0.2, 32.0)
"""Weights of the guards on true refusals that a solution covers."""
NODES = (3, 4)
"""Values of beta, and of gamma, at which the system is factorised."""
SHARES = (2.0, 8.0, 1.0)
"""What the tokens before a prompt's last one weigh together, the last one, and those of its answer's opening together.
After the last one it is decided whether the model refuses. False and true refusals have different openings: where all
tokens weigh the same, a solution tells the keys apart by these first (notes/LOG.md)."""


@dataclass(frozen=True)
class BalancedSolution:
    """``A(beta, gamma) = span (P + beta Q + gamma S)^-1 right`` on the span ``(d_in, D)``; P, Q, S ``(D, D)`` float64.

    right: ``(D, m)`` float64.
    """

    span: torch.Tensor
    P: torch.Tensor
    Q: torch.Tensor
    S: torch.Tensor
    right: torch.Tensor

    def at(self, beta: float, gamma: float, columns: list[int]) -> torch.Tensor:
        """The solution ``(d_in, len(columns))`` for these directions; weights within their ranges."""
        factor = torch.linalg.cholesky(self.P + beta * self.Q + gamma * self.S)
        return self.span @ torch.cholesky_solve(self.right[:, columns], factor).float()


def solve_balanced(
    moved_keys: torch.Tensor,
    harmless_keys: torch.Tensor,
    kept_keys: torch.Tensor,
    WtR: torch.Tensor,
    *,
    alpha: float,
    writer: str,
    n_answer: int = 0,
) -> BalancedSolution:
    """For all weights the A ``(d_in, m)`` that minimises, over moved keys ``X_b``, harmless ``X_g`` and kept ``X_h``,

    ``|X_b A - T|^2 / n_b + beta |X_g A|^2 / n_g + gamma |X_h A|^2 / n_h + alpha t |A|^2``, where positions weigh what
    :func:`position_weights` says. ``T = (x_b - x_g) W^T R`` is the mean excess of what is written, for means ``x_b``
    and ``x_g`` of the moved and the harmless keys at the same position: one for all moved keys, so that A learns to
    tell them from kept ones, and not by how much each of them exceeds. ``t`` is the mean eigenvalue of the matrix of
    the first three terms, so alpha has no units.

    Keys are ``(n, P, d_in)`` float32: P positions of each prompt, every one a sample; the last ``n_answer`` are tokens
    of an answer. With fewer samples than inputs the system is solved among the samples (Woodbury), else among the
    inputs.

    Raises NumericalError naming the writer, with the condition number, when the system is singular.
    """
    excess = (moved_keys.mean(dim=0) - harmless_keys.mean(dim=0)) @ WtR
    weights = position_weights(len(excess), n_answer)
    system = _System((moved_keys, harmless_keys, kept_keys), weights, excess, alpha, writer)
    nodes = list(product(_nodes(*BETA_RANGE, NODES[0]), _nodes(*GAMMA_RANGE, NODES[1])))
    return system.reduce(orthonormal(torch.cat(list(system.solve(nodes)), dim=1)))


def position_weights(n_positions: int, n_answer: int) -> torch.Tensor:
    """What each position of a prompt weighs, ``(n_positions,)`` float32 of sum 1: see :data:`SHARES`.

    The last ``n_answer`` positions are tokens of an answer, the one before them is the prompt's last token. Positions
    within a share weigh the same; shares without a position are left out.
    """
    n_prompt = n_positions - n_answer
    if not 0 <= n_answer < n_positions:
        raise UsageError(f"{n_answer} of {n_positions} key positions are tokens of an answer; leave one to the prompt")
    counts = (n_prompt - 1, 1, n_answer)
    parts = [torch.full((count,), share / max(count, 1)) for count, share in zip(counts, SHARES, strict=True)]
    weights = torch.cat(parts)
    return weights / weights.sum()


def _nodes(low: float, high: float, n: int) -> list[float]:
    """Chebyshev's points, on a logarithmic scale."""
    middle, half = math.log(low * high) / 2, math.log(high / low) / 2
    return [math.exp(middle + half * math.cos((2 * j + 1) * math.pi / (2 * n))) for j in range(n)]


class _System:
    """``sum_i w_i X_i^T X_i / n_i``, each part with its own share of the ridge; the X_i are held scaled.

    keys are ``(n, P, d_in)``, weights ``(P,)`` those of the positions, excess ``(P, m)`` what a moved key should lose.
    """

    def __init__(
        self, keys: Sequence[torch.Tensor], weights: torch.Tensor, excess: torch.Tensor, alpha: float, writer: str
    ) -> None:
        root = weights.sqrt()[:, None]
        self._rows = [(X * (root * len(X) ** -0.5)).flatten(0, 1) for X in keys]
        n_moved = len(keys[0])
        self._wanted = (excess * (root * n_moved**-0.5)).expand(n_moved, *excess.shape).flatten(0, 1)
        self._d_in, self._alpha, self._writer = keys[0].shape[-1], alpha, writer
        self._ridges = [alpha * float(rows.square().sum()) / self._d_in for rows in self._rows]

    def solve(self, nodes: Sequence[tuple[float, float]]) -> Iterator[torch.Tensor]:
        """The exact solutions ``(d_in, m)`` at these weights."""
        among_samples = sum(map(len, self._rows)) < self._d_in
        return self._solve_among_samples(nodes) if among_samples else self._solve_among_inputs(nodes)

    def _solve_among_inputs(self, nodes: Sequence[tuple[float, float]]) -> Iterator[torch.Tensor]:
        grams, right = [gram(rows) for rows in self._rows], self._rows[0].T @ self._wanted
        for part, ridge in zip(grams, self._ridges, strict=True):
            part.diagonal().add_(ridge)
        for beta, gamma in nodes:
            yield torch.cholesky_solve(
                right, self._factorised(grams[0] + beta * grams[1] + gamma * grams[2], beta, gamma)
            )

    def _solve_among_samples(self, nodes: Sequence[tuple[float, float]]) -> Iterator[torch.Tensor]:
        """With X the rows of all parts and D their weights, ``A = X^T z``, ``(X X^T + r / D) z = y / D``."""
        rows = torch.cat(self._rows)
        G, sizes = rows @ rows.T, torch.tensor([len(part) for part in self._rows])
        y = torch.cat([self._wanted, self._wanted.new_zeros(len(rows) - len(self._wanted), self._wanted.shape[1])])
        for beta, gamma in nodes:
            weights = torch.tensor([1.0, beta, gamma]).repeat_interleave(sizes)
            system = G + torch.diag(self._ridge(beta, gamma) / weights)
            yield rows.T @ torch.cholesky_solve(y / weights[:, None], self._factorised(system, beta, gamma))

    def reduce(self, K: torch.Tensor) -> BalancedSolution:
        """The system on the span of K ``(d_in, D)``, orthonormal."""
        projected = [(rows @ K).double() for rows in self._rows]
        identity = torch.eye(K.shape[1], dtype=torch.float64)
        P, Q, S = (part.T @ part + ridge * identity for part, ridge in zip(projected, self._ridges, strict=True))
        return BalancedSolution(K, P, Q, S, projected[0].T @ self._wanted.double())

    def _ridge(self, beta: float, gamma: float) -> float:
        return self._ridges[0] + beta * self._ridges[1] + gamma * self._ridges[2]

    def _factorised(self, system: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
        ridge = self._ridge(beta, gamma)
        factor, info = torch.linalg.cholesky_ex(system)
        pivots = factor.diagonal()
        if int(info) != 0 or not ridge > 0 or float(pivots.max() / pivots.min()) ** 2 > MAX_CONDITION:
            raise singular_system(system, ridge, self._alpha, self._writer)
        return torch.as_tensor(factor)
