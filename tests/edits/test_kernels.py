from dataclasses import replace

import pytest
import torch

from sombrero.edits import edit_bias, edit_output, edit_weight
from sombrero.errors import CheckpointError
from sombrero.records import Layout, LowRankEdit


@pytest.fixture
def edit() -> LowRankEdit:
    g = torch.Generator().manual_seed(1)
    V = torch.linalg.qr(torch.randn(6, 2, generator=g)).Q
    return LowRankEdit(V, torch.randn(4, 2, generator=g), torch.randn(2, generator=g), 0.6)


@pytest.mark.parametrize("layout", ["linear", "conv1d"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_output_and_weight_kernels_agree(edit: LowRankEdit, layout: Layout, rescaled: bool) -> None:
    edit = replace(edit, row_scale=torch.linspace(0.2, 3.0, 6) if rescaled else None)
    W, b, x = torch.randn(6, 4), torch.randn(6), torch.randn(3, 5, 4)
    stored = W if layout == "linear" else W.T.contiguous()
    baked = edit_weight(stored, edit, layout)
    assert baked.shape == stored.shape
    baked_W = baked if layout == "linear" else baked.T
    live = edit_output(x @ W.T + b, x, edit)
    assert torch.allclose(live, x @ baked_W.T + edit_bias(b, edit), atol=1e-5)


def test_dtypes_are_kept_and_float64_is_computed_in_float64(edit: LowRankEdit) -> None:
    W = torch.randn(6, 4, dtype=torch.float64)
    exact = W - edit.strength * edit.V.double() @ edit.A.double().T
    assert torch.allclose(edit_weight(W, edit, "linear"), exact, atol=1e-12)
    assert edit_weight(W.bfloat16(), edit, "linear").dtype == torch.bfloat16
    assert edit_output(
        torch.zeros(2, 6, dtype=torch.bfloat16), torch.zeros(2, 4, dtype=torch.bfloat16), edit
    ).dtype == (torch.bfloat16)


def test_an_edit_without_c_leaves_the_bias_alone(edit: LowRankEdit) -> None:
    bias = torch.randn(6)
    assert edit_bias(bias, LowRankEdit(edit.V, edit.A, None, 1.0)) is bias


def test_a_bias_is_rescaled_with_its_row(edit: LowRankEdit) -> None:
    bias, scale = torch.randn(6), torch.linspace(0.2, 3.0, 6)
    assert torch.allclose(edit_bias(bias, LowRankEdit(edit.V, edit.A, None, 1.0, scale)), scale * bias)
    both = replace(edit, row_scale=scale)
    assert torch.allclose(edit_bias(bias, both), scale * edit_bias(bias, edit))


def test_the_weight_that_is_given_stays_as_it_is(edit: LowRankEdit) -> None:
    W = torch.randn(6, 4)
    before = W.clone()
    edit_weight(W, replace(edit, row_scale=torch.full((6,), 2.0)), "linear")
    assert torch.equal(W, before)


def test_a_weight_of_another_shape_is_refused(edit: LowRankEdit) -> None:
    with pytest.raises(CheckpointError, match=r"\(4, 6\) cannot take an edit"):
        edit_weight(torch.zeros(4, 6), edit, "linear")
