"""The one kernel of an edit, on a writer's output (live trial) and on its weight (bake).

An edit removes ``strength * V (A^T x + c)`` from ``y = W x + b``, then multiplies every row by its ``row_scale``, where
it has one (DESIGN §2): with D the diagonal matrix of these,

    y' = D (y - strength * V (A^T x + c)),   W' = D (W - strength * V A^T),   b' = D (b - strength * V c).

On the output that is two thin matrix products. D is not of low rank, but multiplies the output as it does the weight,
so a live trial needs no copy of the weight for it either.
"""

from __future__ import annotations

import torch

from sombrero.errors import CheckpointError
from sombrero.records import Layout, LowRankEdit


def edit_output(y: torch.Tensor, x: torch.Tensor, edit: LowRankEdit) -> torch.Tensor:
    """Return ``y'`` ``(..., d)`` in y's dtype, for inputs x ``(..., d_in)``; computed in float32 at least."""
    dtype = torch.promote_types(y.dtype, torch.float32)
    amount = x.to(dtype) @ edit.A.to(device=x.device, dtype=dtype)
    if edit.c is not None:
        amount = amount + edit.c.to(device=x.device, dtype=dtype)
    V = edit.V.to(device=y.device, dtype=dtype)
    return _rescaled(y.to(dtype) - edit.strength * (amount.to(y.device) @ V.T), edit).to(y.dtype)


def edit_weight(weight: torch.Tensor, edit: LowRankEdit, layout: Layout) -> torch.Tensor:
    """Return ``W'`` in the dtype and layout of ``weight``: ``(d, d_in)`` for linear, ``(d_in, d)`` for conv1d.

    Raises CheckpointError when the shapes do not fit.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    V = edit.V.to(device=weight.device, dtype=dtype)
    A = edit.A.to(device=weight.device, dtype=dtype)
    left, right = (V, A) if layout == "linear" else (A, V)
    if tuple(weight.shape) != (left.shape[0], right.shape[0]):
        raise CheckpointError(
            f"a {layout} weight of shape {tuple(weight.shape)} cannot take an edit with V {tuple(V.shape)} and "
            f"A {tuple(A.shape)}; the edit was made for another model"
        )
    edited = torch.addmm(weight.to(dtype), left, right.T, alpha=-edit.strength)
    if edit.row_scale is not None:
        scale = edit.row_scale.to(device=weight.device, dtype=dtype)
        edited *= scale[:, None] if layout == "linear" else scale
    return edited.to(weight.dtype)


def edit_bias(bias: torch.Tensor, edit: LowRankEdit) -> torch.Tensor:
    """Return ``b'`` ``(d,)`` in the dtype of ``bias``; ``bias`` itself when the edit has neither c nor row_scale."""
    if edit.c is None and edit.row_scale is None:
        return bias
    dtype = torch.promote_types(bias.dtype, torch.float32)
    edited = bias.to(dtype)
    if edit.c is not None:
        shift = edit.V.to(device=bias.device, dtype=dtype) @ edit.c.to(device=bias.device, dtype=dtype)
        edited = edited - edit.strength * shift
    return _rescaled(edited, edit).to(bias.dtype)


def _rescaled(values: torch.Tensor, edit: LowRankEdit) -> torch.Tensor:
    """``D values`` for values ``(..., d)``."""
    if edit.row_scale is None:
        return values
    return values * edit.row_scale.to(device=values.device, dtype=values.dtype)
