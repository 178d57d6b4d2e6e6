"""The guarded least squares: every weight of the guards from one solution, in input and in sample space."""

from __future__ import annotations

import pytest
import torch

from sombrero.edits import BETA_RANGE, GuardedSolution, edit_weight, guarded, orthonormal_basis, solve_guarded
from sombrero.errors import NumericalError

BETAS = (*BETA_RANGE, 0.37, 1.0, 2.0, 5.3)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def keys(generator: torch.Generator, d_in: int, n: int, mean: float) -> torch.Tensor:
    """Keys at two positions, with a spectrum that falls as that of a real model's does, and a mean."""
    spread = torch.arange(1, d_in + 1) ** -0.7
    return (torch.randn(n, 2, d_in, generator=generator) + mean) * spread


def stacked_solution(
    X_h: torch.Tensor, X_g: torch.Tensor, WtR: torch.Tensor, alpha: float, beta: float
) -> torch.Tensor:
    """The same least squares written as one tall system, in float64, by another algorithm (QR)."""
    X_h, X_g, WtR = X_h.double(), X_g.double(), WtR.double()
    target = ((X_h - X_g.mean(0)) @ WtR).flatten(0, 1)
    X_h, X_g = X_h.flatten(0, 1), X_g.flatten(0, 1)
    rows = torch.cat([X_h / len(X_h) ** 0.5, X_g * (beta / len(X_g)) ** 0.5])
    ridge = alpha * rows.square().sum() / rows.shape[1]
    wanted = torch.cat([target / len(X_h) ** 0.5, torch.zeros(len(X_g) + rows.shape[1], WtR.shape[1])])
    stacked = torch.cat([rows, ridge**0.5 * torch.eye(rows.shape[1], dtype=torch.float64)])
    solution: torch.Tensor = torch.linalg.lstsq(stacked, wanted).solution
    return solution


@pytest.mark.parametrize("d_in", [5, 46, 300])
@pytest.mark.parametrize("alpha", [1e-3, 0.01, 0.3])
def test_one_solution_serves_every_beta(generator: torch.Generator, d_in: int, alpha: float) -> None:
    """Fewer and more samples (46) than inputs; at, between and at the ends of what is solved for."""
    X_h, X_g = keys(generator, d_in, 9, 0.5), keys(generator, d_in, 14, 0.2)
    WtR = torch.randn(12, d_in, generator=generator).T @ torch.randn(12, 4, generator=generator)
    solution = solve_guarded(X_h, X_g, WtR, alpha=alpha, writer="w")
    for beta in BETAS:
        exact = stacked_solution(X_h, X_g, WtR, alpha, beta)
        found = solution.at(beta, [0, 1, 2, 3]).double()
        assert (found - exact).norm() < 1e-4 * exact.norm(), beta
        assert torch.allclose(solution.at(beta, [2, 0]), solution.at(beta, [0, 1, 2, 3])[:, [2, 0]], atol=1e-5)


def test_parallel_directions_are_solved_for_too(generator: torch.Generator) -> None:
    """The single direction is a mean of the map's units: columns of the right side depend on each other."""
    X_h, X_g = keys(generator, 40, 30, 0.5), keys(generator, 40, 50, 0.2)
    WtR = torch.randn(40, 2, generator=generator) @ torch.randn(2, 6, generator=generator)
    exact = stacked_solution(X_h, X_g, WtR, 0.01, 3.0)
    found = solve_guarded(X_h, X_g, WtR, alpha=0.01, writer="w").at(3.0, list(range(6)))
    assert (found.double() - exact).norm() < 1e-4 * exact.norm()


def test_nothing_to_move_is_no_edit(generator: torch.Generator) -> None:
    X_g = keys(generator, 6, 20, 0.0)
    solution = solve_guarded(X_g.mean(0, keepdim=True), X_g, torch.ones(6, 2), alpha=0.01, writer="w")
    assert isinstance(solution, GuardedSolution)
    assert solution.at(1.0, [0, 1]).abs().max() < 1e-6


def test_guarded_moves_harmful_keys_and_holds_harmless_ones(generator: torch.Generator) -> None:
    X_h, X_g = torch.randn(9, 1, 60, generator=generator) + 0.5, torch.randn(14, 1, 60, generator=generator)
    W, R = torch.randn(12, 60, generator=generator), torch.randn(12, 1, generator=generator)
    basis = orthonormal_basis(R)
    solution = solve_guarded(X_h, X_g, W.T @ R, alpha=1e-4, writer="w").at(1.0, [0])
    edited = edit_weight(W, guarded(basis, solution, 1.0), "linear")
    mean = (X_g @ W.T @ basis.V).mean(0)
    before, after = X_h @ W.T @ basis.V - mean, X_h @ edited.T @ basis.V - mean
    assert after.norm() < 0.05 * before.norm()
    assert (X_g @ (edited - W).T).norm() < 0.05 * (X_h @ (edited - W).T).norm()


@pytest.mark.parametrize("d_in", [6, 300])
@pytest.mark.parametrize("case", ["zero", "constant"])
def test_a_singular_solve_names_the_writer_and_its_condition(d_in: int, case: str) -> None:
    """Keys that are all zero, and keys that are all alike with hardly a ridge: no edit, whatever the numbers gave."""
    alpha, value = (0.01, 0.0) if case == "zero" else (1e-9, 3.0)
    X_h, X_g = torch.full((4, 1, d_in), value), torch.full((5, 1, d_in), value)
    X_h[0] += 1e-3 * value
    with pytest.raises(NumericalError, match=r"writer 3\.mlp.*condition number (inf|\d\.?\d*e\+\d+).*raise alpha"):
        solve_guarded(X_h, X_g, torch.ones(d_in, 1), alpha=alpha, writer="3.mlp")


@pytest.mark.parametrize("alpha", [10.0**-k for k in range(1, 12)])
@pytest.mark.parametrize("repeated", [True, False])
def test_a_solve_is_right_or_refused(generator: torch.Generator, alpha: float, repeated: bool) -> None:
    """Never an exploding edit, however small the ridge; with inputs that repeat others all depends on it."""
    X_h, X_g = keys(generator, 60, 20, 0.5), keys(generator, 60, 25, 0.2)
    if repeated:
        X_h[..., 40:], X_g[..., 40:] = X_h[..., :20], X_g[..., :20]
    WtR = torch.randn(60, 2, generator=generator)
    try:
        solution = solve_guarded(X_h, X_g, WtR, alpha=alpha, writer="w")
    except NumericalError:
        assert repeated and alpha < 1e-5
        return
    for beta in BETAS:
        exact = stacked_solution(X_h, X_g, WtR, alpha, beta)
        assert (solution.at(beta, [0, 1]).double() - exact).norm() < 0.01 * exact.norm()
