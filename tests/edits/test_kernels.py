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
def test_output_and_weight_kernels_agree(edit: LowRankEdit, layout: Layout) -> None:
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


def test_a_weight_of_another_shape_is_refused(edit: LowRankEdit) -> None:
    with pytest.raises(CheckpointError, match=r"\(4, 6\) cannot take an edit"):
        edit_weight(torch.zeros(4, 6), edit, "linear")
