"""The guarded solve with guards on harmless keys and on true refusals equals its definition, for all weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sombrero.edits import BETA_RANGE, GAMMA_RANGE, solve_balanced
from sombrero.edits.balance import position_weights
from sombrero.errors import NumericalError, UsageError

M, POSITIONS = 5, 4


def keys(n: int, d_in: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Keys with a common part and a spectrum that falls, as hidden activations have."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -1.5, d_in)
    return torch.randn(n, POSITIONS, d_in, generator=generator) * scale + 0.3 + shift * scale.flip(0)


def definition(moved, harmless, kept, WtR, alpha, beta, gamma, n_answer):  # type: ignore[no-untyped-def]
    """The normal equations in float64, position by position, as the docstring has them."""
    weights = position_weights(POSITIONS, n_answer)
    T = ((moved.mean(0) - harmless.mean(0)) @ WtR).double()
    system, right = 0, 0
    for place, share in enumerate(weights.tolist()):
        parts = [X[:, place].double() for X in (moved, harmless, kept)]
        for weight, X in zip((1.0, beta, gamma), parts, strict=True):
            system = system + share * weight * X.T @ X / len(X)
        right = right + share * torch.outer(parts[0].mean(0), T[place])
    system = system + alpha * system.diagonal().mean() * torch.eye(len(system), dtype=torch.float64)
    return torch.linalg.solve(system, right)


@pytest.mark.parametrize(("d_in", "n"), [(24, 40), (200, 12)], ids=["among inputs", "among samples"])
@pytest.mark.parametrize("beta", [BETA_RANGE[0], 1.3, BETA_RANGE[1]])
@pytest.mark.parametrize("gamma", [GAMMA_RANGE[0], 3.0, GAMMA_RANGE[1]])
@pytest.mark.parametrize("n_answer", [0, 2])
def test_it_is_the_least_squares_solution(d_in: int, n: int, beta: float, gamma: float, n_answer: int) -> None:
    moved, harmless, kept = keys(n, d_in, 0, 1.0), keys(2 * n, d_in, 1), keys(n + 3, d_in, 2, 0.5)
    WtR = torch.randn(d_in, M, generator=torch.Generator().manual_seed(3))
    solution = solve_balanced(moved, harmless, kept, WtR, alpha=0.01, writer="0.mlp", n_answer=n_answer)
    found = solution.at(beta, gamma, [3, 0])
    expected = definition(moved, harmless, kept, WtR, 0.01, beta, gamma, n_answer)[:, [3, 0]]
    assert found.dtype == torch.float32 and found.shape == (d_in, 2)
    assert float((found - expected).norm() / expected.norm()) < 0.02


def test_heavier_guards_hold_true_refusals_stiller_and_move_false_ones_less() -> None:
    moved, harmless, kept = keys(30, 24, 0, 1.0), keys(60, 24, 1), keys(30, 24, 2, 0.8)
    solution = solve_balanced(moved, harmless, kept, torch.eye(24)[:, :M], alpha=0.01, writer="0.mlp")
    written = [[float((X @ solution.at(1.0, gamma, [0])).norm()) for X in (kept, moved)] for gamma in (0.3, 3.0, 30.0)]
    assert written == sorted(written, reverse=True)
    assert all(a[1] > b[1] for a, b in pairwise(written))


def test_the_token_that_an_answer_is_decided_at_weighs_most() -> None:
    weights = position_weights(17, 12)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert int(weights.argmax()) == 4 and float(weights[4]) > 0.5
    assert float(weights[:4].sum()) > float(weights[5:].sum()) > 0
    assert position_weights(1, 0).tolist() == [1.0]
    assert position_weights(3, 0).argmax() == 2
    assert position_weights(13, 12).argmax() == 0


def test_one_position_is_left_to_the_prompt() -> None:
    with pytest.raises(UsageError, match="12 of 12 key positions"):
        position_weights(12, 12)


def test_every_moved_key_is_moved_by_one_amount_as_far_as_it_goes() -> None:
    """With nothing guarded against and hardly a ridge, keys far apart in what they write lose the same of it."""
    moved, harmless = keys(8, 60, 0, 1.0), keys(8, 60, 1)
    WtR = torch.eye(60)[:, :1] * 10
    solution = solve_balanced(moved, harmless, harmless, WtR, alpha=1e-4, writer="0.mlp")
    last = moved[:, -1]
    lost = last @ solution.at(BETA_RANGE[0], GAMMA_RANGE[0], [0])
    assert float(lost.std() / lost.mean().abs()) < 0.5 * float((last @ WtR).std() / lost.mean().abs())


@pytest.mark.parametrize("broken", ["constant", "infinite"])
def test_a_singular_system_names_the_writer_and_its_condition(broken: str) -> None:
    zero = torch.zeros(6, POSITIONS, 24) if broken == "constant" else torch.full((6, POSITIONS, 24), torch.inf)
    with pytest.raises(NumericalError, match=r"writer 3\.mlp has no stable solution \(condition number"):
        solve_balanced(zero, zero, zero, torch.eye(24), alpha=0.01, writer="3.mlp")
