from pathlib import Path

import pytest
import torch

from sombrero.edits import compose, edit_weight, guarded, orthonormal_basis, project, solve_guarded
from sombrero.errors import NumericalError, UsageError
from sombrero.records import LowRankEdit
from tests.planned import parameters, plan


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_basis_spans_the_directions(generator: torch.Generator) -> None:
    R = torch.randn(12, 3, generator=generator)
    basis = orthonormal_basis(R)
    assert torch.allclose(basis.V.T @ basis.V, torch.eye(3), atol=1e-6)
    assert torch.allclose(basis.V @ (basis.V.T @ R), R, atol=1e-5)
    assert torch.allclose(R @ basis.combine, basis.V, atol=1e-5)


def test_parallel_directions_are_one(generator: torch.Generator) -> None:
    r = torch.randn(12, 1, generator=generator)
    basis = orthonormal_basis(torch.cat([r, -3 * r, 1e4 * r], dim=1))
    assert basis.V.shape == (12, 1)
    assert torch.allclose(torch.cat([r, -3 * r, 1e4 * r], dim=1) @ basis.combine, basis.V, atol=1e-4)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_directions_that_point_nowhere_are_refused(bad: float) -> None:
    with pytest.raises(NumericalError, match="nothing to remove"):
        orthonormal_basis(torch.full((5, 2), bad))


def test_project_leaves_nothing_in_the_span(generator: torch.Generator) -> None:
    W, b, R = (torch.randn(*shape, generator=generator) for shape in ((12, 7), (12,), (12, 3)))
    basis = orthonormal_basis(R)
    edit = project(basis, W.T @ R, b, 1.0)
    edited = edit_weight(W, edit, "linear")
    assert (basis.V.T @ edited).abs().max() < 1e-5
    assert edit.c is not None
    assert (basis.V.T @ (b - basis.V @ edit.c)).abs().max() < 1e-5


def test_compose_is_the_ordered_product(generator: torch.Generator) -> None:
    """Against the product written out in full d by d matrices, in float64."""
    W, R = (torch.randn(*shape, generator=generator) for shape in ((12, 7), (12, 3)))
    strength = 0.7
    product = torch.eye(12, dtype=torch.float64)
    for r in R.T.double():
        unit = r / r.norm()
        product = (torch.eye(12, dtype=torch.float64) - strength * torch.outer(unit, unit)) @ product
    edit = compose(R, orthonormal_basis(R), W.T @ R, None, strength)
    assert torch.allclose(edit_weight(W, edit, "linear").double(), product @ W.double(), atol=1e-5)
    reversed_edit = compose(R.flip(1), orthonormal_basis(R.flip(1)), W.T @ R.flip(1), None, strength)
    assert not torch.allclose(edit_weight(W, reversed_edit, "linear").double(), product @ W.double(), atol=1e-3)


@pytest.mark.parametrize("d_in", [5, 90])
def test_guarded_solves_its_least_squares(generator: torch.Generator, d_in: int) -> None:
    """Both solvers (fewer and more samples than inputs) against an independent solution of the stacked system."""
    X_h, X_g = torch.randn(9, 2, d_in, generator=generator), torch.randn(14, 2, d_in, generator=generator)
    W, R = torch.randn(12, d_in, generator=generator), torch.randn(12, 2, generator=generator)
    alpha, beta = 0.05, 2.0
    basis = orthonormal_basis(R)
    solution = solve_guarded(X_h, X_g, W.T @ R, alpha=alpha, betas=[1.0, beta], writer="w")[beta]
    edit = guarded(basis, solution, 1.0)
    target = ((X_h - X_g.mean(0)) @ W.T @ basis.V).flatten(0, 1)
    rows = torch.cat([X_h.flatten(0, 1) / 18**0.5, X_g.flatten(0, 1) * (beta / 28) ** 0.5])
    ridge = alpha * rows.square().sum() / d_in
    stacked = torch.cat([rows, ridge**0.5 * torch.eye(d_in)]).double()
    wanted = torch.cat([target / 18**0.5, torch.zeros(28 + d_in, 2)]).double()
    assert torch.allclose(edit.A.double(), torch.linalg.lstsq(stacked, wanted).solution, atol=1e-4)
    assert edit.c is None


def test_guarded_moves_harmful_keys_and_holds_harmless_ones(generator: torch.Generator) -> None:
    X_h, X_g = torch.randn(9, 1, 60, generator=generator) + 0.5, torch.randn(14, 1, 60, generator=generator)
    W, R = torch.randn(12, 60, generator=generator), torch.randn(12, 1, generator=generator)
    basis = orthonormal_basis(R)
    solution = solve_guarded(X_h, X_g, W.T @ R, alpha=1e-4, betas=[1.0], writer="w")[1.0]
    edited = edit_weight(W, guarded(basis, solution, 1.0), "linear")
    mean = (X_g @ W.T @ basis.V).mean(0)
    before, after = X_h @ W.T @ basis.V - mean, X_h @ edited.T @ basis.V - mean
    assert after.norm() < 0.05 * before.norm()
    assert (X_g @ (edited - W).T).norm() < 0.05 * (X_h @ (edited - W).T).norm()


def test_a_singular_solve_names_the_writer_and_its_condition() -> None:
    with pytest.raises(NumericalError, match=r"writer 3\.mlp.*condition number"):
        solve_guarded(
            torch.zeros(4, 1, 6), torch.zeros(5, 1, 6), torch.ones(6, 1), alpha=0.01, betas=[1.0], writer="3.mlp"
        )


def test_a_planned_edit_is_the_rule_on_each_writer(tmp_path: Path) -> None:
    planned = plan("llama", tmp_path)
    edit = planned.planner.build(parameters("project"))
    assert set(edit) == {w.name for w in planned.writers if w.layer >= 1}
    for writer in planned.writers[2:]:
        R = planned.directions["som"].vectors[writer.layer + 1, [0, 1]]
        low_rank: LowRankEdit = edit[writer.name]
        edited = edit_weight(planned.handle.model.get_submodule(writer.module_path).weight, low_rank, "linear")
        assert (torch.nn.functional.normalize(R, dim=1) @ edited).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": "nowhere"}, "no direction set 'nowhere'"),
        ({"units": (9,)}, "not among the 4"),
        ({"units": ()}, "not among the 4"),
        ({"map_layer": 7}, "not a state index"),
        ({"strength": -1.0}, "strength -1.0"),
        ({"strength": float("nan")}, "strength nan"),
    ],
)
def test_parameters_out_of_range_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    planned = plan("llama", tmp_path)
    with pytest.raises(UsageError, match=message):
        planned.planner.build(parameters("project", **change))  # type: ignore[arg-type]
