"""Slices of a tensor: they cover it once, in order, and together they are the edit of the whole."""

from __future__ import annotations

import math
from typing import Literal, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sombrero.checkpoints import slices
from sombrero.checkpoints.formats import DENSE, encode
from sombrero.checkpoints.header import TensorEntry
from sombrero.checkpoints.plan import TensorEdit
from sombrero.checkpoints.slices import cut, relative_energy
from sombrero.errors import NumericalError
from sombrero.records import LowRankEdit, Writer

MatrixLayout = Literal["linear", "conv1d"]
BEGIN = 104


def make_change(layout: MatrixLayout, d: int, d_in: int, *, scaled: bool, seed: int = 0) -> TensorEdit:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(d, generator=generator) + 0.5 if scaled else None
    edit = LowRankEdit(
        torch.randn(d, 2, generator=generator), torch.randn(d_in, 2, generator=generator), None, 0.7, scale
    )
    return TensorEdit(Writer("0.mlp", 0, "mlp", "m", "w", None, layout, d_in, d), edit, "weight")


def carry_out(weight: torch.Tensor, dtype: str, change: TensorEdit) -> tuple[torch.Tensor, float, list[int]]:
    """Edit ``weight`` by slices; the result, its relative energy, and the rows of each slice."""
    content = bytearray(encode(weight))
    entry = TensorEntry("w", "f", dtype, tuple(weight.shape), BEGIN, BEGIN + len(content))
    position, changed, total, rows = BEGIN, 0.0, 0.0, []

    def read(begin: int, end: int) -> bytearray:
        return content[begin - BEGIN : end - BEGIN]

    def write(begin: int, data: bytearray) -> None:
        content[begin - BEGIN : begin - BEGIN + len(data)] = data

    for part in cut(entry, change):
        assert part.entry.begin == position and part.entry.n_bytes == part.entry.end - position
        position = part.entry.end
        rows.append(part.entry.shape[0])
        norms = part.carry_out(read, write)
        changed, total = changed + norms[0], total + norms[1]
    assert position == entry.end and sum(rows) == weight.shape[0]
    edited = torch.frombuffer(content, dtype=DENSE[dtype]).reshape(weight.shape)
    return edited, relative_energy(changed, total), rows


@settings(max_examples=40, deadline=None)
@given(
    layout=st.sampled_from(get_args(MatrixLayout)),
    d=st.integers(1, 40),
    d_in=st.integers(1, 40),
    slice_elements=st.integers(1, 400),
    block_elements=st.integers(1, 400),
    dtype=st.sampled_from(["F32", "BF16", "F16", "F64"]),
    scaled=st.booleans(),
)
def test_slices_together_are_the_whole_edit(
    layout: MatrixLayout, d: int, d_in: int, slice_elements: int, block_elements: int, dtype: str, scaled: bool
) -> None:
    change = make_change(layout, d, d_in, scaled=scaled)
    shape = (d, d_in) if layout == "linear" else (d_in, d)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DENSE[dtype])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE_ELEMENTS", slice_elements)
        patch.setattr(slices, "BLOCK_ELEMENTS", block_elements)
        edited, energy, rows = carry_out(weight, dtype, change)
    assert all(count * shape[1] <= max(slice_elements, shape[1]) for count in rows)
    whole = change.apply(weight)
    # another order of two products: a rounding of the stored dtype apart at most
    step = torch.finfo(DENSE[dtype]).eps * whole.abs().clamp_min(1).double()
    assert bool(((edited.double() - whole.double()).abs() <= 2 * step + 1e-6).all())
    difference = edited.double() - weight.double()
    assert energy == pytest.approx(float(difference.norm() / weight.double().norm()), rel=1e-4)


def test_rows_whose_edit_is_lost_keep_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "BLOCK_ELEMENTS", 8)
    change = make_change("linear", 4, 8, scaled=False)
    change.edit.V[2:] = 0
    weight = torch.full((4, 8), -0.0)
    edited, energy, _ = carry_out(weight, "F32", change)
    assert bool((edited[:2] != 0).any()) and energy > 0
    assert bool(torch.signbit(edited[2:]).all())


def test_sizes_whose_squares_overflow_have_an_energy_and_what_is_not_finite_is_an_error() -> None:
    change = make_change("linear", 4, 8, scaled=False)
    weight = torch.full((4, 8), 1e30)
    change.edit.V.mul_(1e29)
    edited, energy, _ = carry_out(weight, "F32", change)
    assert energy == pytest.approx(float((edited.double() - weight.double()).norm() / weight.double().norm()), rel=1e-6)
    assert math.isfinite(energy) and energy > 0
    change.edit.V.mul_(1e12)
    with pytest.raises(NumericalError, match="'w' is not finite"):
        carry_out(weight, "F32", change)
