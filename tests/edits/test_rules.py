from pathlib import Path

import pytest
import torch

from sombrero.edits import (
    affine,
    bakeable_kinds,
    bakeable_rules,
    compose,
    edit_bias,
    edit_weight,
    norm,
    orthonormal_basis,
    project,
)
from sombrero.errors import NumericalError, UsageError
from sombrero.records import EditParameters, LayerProfile, LowRankEdit, RuleName
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


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_affine_moves_the_component_to_the_harmless_mean(generator: torch.Generator, strength: float) -> None:
    """Against Marshall et al.'s formula on outputs, ``y - s V (V^T y - mean V^T y_g)``; at 1 the mean alone is left."""
    W, b, R, X_g, x = (torch.randn(n, generator=generator) for n in ((12, 7), (12,), (12, 3), (20, 7), (5, 7)))
    basis = orthonormal_basis(R)
    edit = affine(basis, W.T @ R, X_g.mean(0), strength)
    component, mean = (x @ W.T + b) @ basis.V, ((X_g @ W.T + b) @ basis.V).mean(0)
    expected = x @ W.T + b - strength * (component - mean) @ basis.V.T
    edited = x @ edit_weight(W, edit, "linear").T + edit_bias(b, edit)
    assert torch.allclose(edited, expected, atol=1e-5)
    left = abs(1 - strength) * (component - mean)
    assert torch.allclose((edited @ basis.V - mean).abs(), left.abs(), atol=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_norm_restores_the_norm_of_every_row(generator: torch.Generator, strength: float) -> None:
    """Against the dense computation in float64, which makes the projected weight and measures its rows."""
    W, b, R = (torch.randn(*shape, generator=generator) for shape in ((12, 7), (12,), (12, 3)))
    W[4] = b[4] = 0.0  # a row that writes nothing must not begin to
    basis = orthonormal_basis(R)
    edit = norm(basis, W.T @ R, W @ W.T @ R, W.square().sum(1), b, strength, writer="w")
    rows, V = torch.cat([W, b[:, None]], dim=1).double(), basis.V.double()
    edited = torch.cat([edit_weight(W, edit, "linear"), edit_bias(b, edit)[:, None]], dim=1).double()
    assert torch.allclose(edited.norm(dim=1), rows.norm(dim=1), atol=1e-5)
    projected = rows - strength * V @ (V.T @ rows)
    scale = rows.norm(dim=1) / projected.norm(dim=1).clamp_min(1e-9)
    assert torch.allclose(edited, scale[:, None] * projected, atol=1e-5)
    alone = norm(basis, W.T @ R, W @ W.T @ R, W.square().sum(1), None, strength, writer="w")
    assert torch.allclose(edit_weight(W, alone, "linear").norm(dim=1), W.norm(dim=1), atol=1e-5)


def test_a_row_of_which_nothing_is_left_is_refused_and_never_blown_up(generator: torch.Generator) -> None:
    W, R = torch.randn(12, 7, generator=generator), torch.eye(12)[:, 5:6]
    products = W.T @ R, W @ W.T @ R, W.square().sum(1)
    with pytest.raises(NumericalError, match=r"writer 3\.mlp.*row 5 \(condition number"):
        norm(orthonormal_basis(R), *products, None, 1.0, writer="3.mlp")
    half = norm(orthonormal_basis(R), *products, None, 0.5, writer="3.mlp")
    assert half.row_scale is not None and half.row_scale[5] == pytest.approx(2.0, rel=1e-5)


def test_a_rule_that_needs_biases_is_left_out_with_its_reason(tmp_path: Path) -> None:
    without = plan("llama", tmp_path / "without").writers
    attention = plan("llama", tmp_path / "attention", attention_bias=True).writers
    both = plan("llama", tmp_path / "both", attention_bias=True, mlp_bias=True).writers
    rules: tuple[RuleName, ...] = ("guarded", "affine", "norm")
    kept, refused = bakeable_rules(rules, without)
    assert kept == ("guarded", "norm") and set(refused) == {"affine"}
    assert "8 of 8 writers have no bias tensor" in refused["affine"] and "self_attn.o_proj" in refused["affine"]
    assert bakeable_kinds("affine", without) == set()
    assert bakeable_kinds("affine", attention) == {"attention"}
    assert bakeable_rules(rules, attention) == bakeable_rules(rules, both) == (rules, {})
    assert bakeable_kinds("affine", both) == bakeable_kinds("project", without) == {"attention", "mlp"}


def test_the_planner_refuses_what_could_not_be_baked(tmp_path: Path) -> None:
    planned = plan("qwen3", tmp_path, attention_bias=True)
    with pytest.raises(UsageError, match=r"4 of 4 writers have no bias.*give mlp writers strength 0"):
        planned.planner.build(parameters("affine"))
    edit = planned.planner.build(parameters("affine", kinds=("attention",)))
    assert set(edit) == {"1.attention", "2.attention", "3.attention"}


def test_a_planned_edit_is_the_rule_on_each_writer(tmp_path: Path) -> None:
    planned = plan("llama", tmp_path)
    edit = planned.planner.build(parameters("project"))
    assert set(edit) == {w.name for w in planned.writers if w.layer >= 1}
    for writer in planned.writers[2:]:
        R = planned.directions["som"].vectors[writer.layer + 1, [0, 1]]
        low_rank: LowRankEdit = edit[writer.name]
        edited = edit_weight(planned.handle.model.get_submodule(writer.module_path).weight, low_rank, "linear")
        assert (torch.nn.functional.normalize(R, dim=1) @ edited).abs().max() < 1e-5


def test_layers_that_are_none_are_refused(tmp_path: Path) -> None:
    planned = plan("llama", tmp_path)
    turned = EditParameters("project", "som", None, (0,), {"mlp": LayerProfile(3, 1, 1.0)})
    with pytest.raises(UsageError, match=r"layers 3\.\.1 of mlp writers are none"):
        planned.planner.build(turned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": "nowhere"}, "no direction set 'nowhere'"),
        ({"units": (9,)}, "not among the 4"),
        ({"units": ()}, "not among the 4"),
        ({"map_layer": 7}, "not a state index"),
        ({"strength": -1.0}, "strength -1.0"),
        ({"strength": float("nan")}, "strength nan"),
        ({"strength": 10.5}, r"strength 10.5 .* 0\.\.10"),
        ({"units": (1, 1)}, "each at most once"),
        ({"units": (-1,)}, "not among the 4"),
        ({"map_layer": -1}, "not a state index"),
        ({"rule": "guarded", "beta": 0.01}, r"beta 0.01 is not in 0.2..8"),
        ({"rule": "guarded", "beta": float("nan")}, "beta nan"),
        ({"rule": "guarded", "alpha": 0.0}, "alpha 0.0 is not above 0"),
        ({"rule": "guarded", "alpha": float("inf")}, "alpha inf"),
    ],
)
def test_parameters_out_of_range_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    planned = plan("llama", tmp_path)
    with pytest.raises(UsageError, match=message):
        planned.planner.build(parameters(**{"rule": "project", **change}))  # type: ignore[arg-type]
