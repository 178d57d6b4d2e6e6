"""The one kernel of an edit, on a writer's output (live trial) and on its weight (bake).

An edit removes ``strength * V (A^T x + c)`` from ``y = W x + b``, then multiplies every row by its ``row_scale``, where
it has one (DESIGN §2): with D the diagonal matrix of these,

    y' = D (y - strength * V (A^T x + c)),   W' = D (W - strength * V A^T),   b' = D (b - strength * V c).

On the output that is two thin matrix products. D is not of low rank, but multiplies the output as it does the weight,
so a live trial needs no copy of the weight for it either. An edit that reads the output itself removes
``strength * V U^T y``:

    y' = y - strength * V U^T y,   W' = W - strength * V U^T W,   b' = b - strength * V U^T b.

It is linear in y, hence right for a sum of experts' outputs, whatever their weights in it, and baked in each of them.
"""

from __future__ import annotations

from typing import Literal

import torch

from sombrero.errors import CheckpointError
from sombrero.records import Layout, LowRankEdit

EXPERT_LAYOUTS: dict[Layout, Literal["linear", "conv1d"]] = {"experts_out_in": "linear", "experts_in_out": "conv1d"}
"""Layout of a weight with a first axis of experts -> that of one expert."""


def edit_output(y: torch.Tensor, x: torch.Tensor | None, edit: LowRankEdit) -> torch.Tensor:
    """Return ``y'`` ``(..., d)`` in y's dtype, for inputs x ``(..., d_in)``; computed in float32 at least.

    x is not looked at when the edit reads the output.
    """
    dtype = torch.promote_types(y.dtype, torch.float32)
    if edit.A is None or x is None:
        read, side = y, edit.U
        assert side is not None, "an edit that reads the input needs it"
    else:
        read, side = x, edit.A
    amount = read.to(dtype) @ side.to(device=read.device, dtype=dtype)
    if edit.c is not None:
        amount = amount + edit.c.to(device=read.device, dtype=dtype)
    V = edit.V.to(device=y.device, dtype=dtype)
    return _rescaled(y.to(dtype) - edit.strength * (amount.to(y.device) @ V.T), edit).to(y.dtype)


def edit_weight(weight: torch.Tensor, edit: LowRankEdit, layout: Layout) -> torch.Tensor:
    """Return ``W'`` in the dtype and layout of ``weight``: ``(d, d_in)`` for linear, ``(d_in, d)`` for conv1d.

    With a first axis of experts each is edited by itself. Raises CheckpointError when the shapes do not fit.
    """
    if layout in EXPERT_LAYOUTS:
        edited = torch.empty_like(weight)
        for expert, one in enumerate(weight):
            edited[expert] = edit_weight(one, edit, EXPERT_LAYOUTS[layout])
        return edited
    dtype = torch.promote_types(weight.dtype, torch.float32)
    V = edit.V.to(device=weight.device, dtype=dtype)
    if weight.ndim != 2:
        raise _misfit(weight, edit, layout)
    if edit.A is None:
        assert edit.U is not None, "an edit reads either the input or the output"
        rows = weight if layout == "linear" else weight.T
        if rows.shape[0] != edit.U.shape[0]:
            raise _misfit(weight, edit, layout)
        A = rows.to(dtype).T @ edit.U.to(device=weight.device, dtype=dtype)
    else:
        A = edit.A.to(device=weight.device, dtype=dtype)
    left, right = (V, A) if layout == "linear" else (A, V)
    if tuple(weight.shape) != (left.shape[0], right.shape[0]):
        raise _misfit(weight, edit, layout)
    edited = torch.addmm(weight.to(dtype), left, right.T, alpha=-edit.strength)
    if edit.row_scale is not None:
        scale = edit.row_scale.to(device=weight.device, dtype=dtype)
        edited *= scale[:, None] if layout == "linear" else scale
    return edited.to(weight.dtype)


def edit_bias(bias: torch.Tensor, edit: LowRankEdit) -> torch.Tensor:
    """Return ``b'`` ``(..., d)`` in the dtype of ``bias``; ``bias`` itself when the edit leaves it alone."""
    if edit.U is not None:
        return edit_output(bias, None, edit)
    if edit.c is None and edit.row_scale is None:
        return bias
    dtype = torch.promote_types(bias.dtype, torch.float32)
    edited = bias.to(dtype)
    if edit.c is not None:
        shift = edit.V.to(device=bias.device, dtype=dtype) @ edit.c.to(device=bias.device, dtype=dtype)
        edited = edited - edit.strength * shift
    return _rescaled(edited, edit).to(bias.dtype)


def _misfit(weight: torch.Tensor, edit: LowRankEdit, layout: Layout) -> CheckpointError:
    read = "U" if edit.A is None else "A"
    shape = tuple((edit.U if edit.A is None else edit.A).shape)  # type: ignore[union-attr]
    return CheckpointError(
        f"a {layout} weight of shape {tuple(weight.shape)} cannot take an edit with V {tuple(edit.V.shape)} and "
        f"{read} {shape}; the edit was made for another model"
    )


def _rescaled(values: torch.Tensor, edit: LowRankEdit) -> torch.Tensor:
    """``D values`` for values ``(..., d)``."""
    if edit.row_scale is None:
        return values
    return values * edit.row_scale.to(device=values.device, dtype=values.dtype)
