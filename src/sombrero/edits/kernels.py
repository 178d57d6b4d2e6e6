"""The one kernel of an edit, on a writer's output (live trial) and on its weight (bake).

An edit removes ``strength * V (A^T x + c)`` from ``y = W x + b`` (DESIGN §2). On the output that is two thin matrix
products; on the weight it is the same term folded in: ``W' = W - strength * V A^T``, ``b' = b - strength * V c``.
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
    return (y.to(dtype) - edit.strength * (amount.to(y.device) @ V.T)).to(y.dtype)


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
    return torch.addmm(weight.to(dtype), left, right.T, alpha=-edit.strength).to(weight.dtype)


def edit_bias(bias: torch.Tensor, edit: LowRankEdit) -> torch.Tensor:
    """Return ``b' = b - strength * V c`` ``(d,)`` in the dtype of ``bias``; ``bias`` itself when the edit has no c."""
    if edit.c is None:
        return bias
    dtype = torch.promote_types(bias.dtype, torch.float32)
    shift = edit.V.to(device=bias.device, dtype=dtype) @ edit.c.to(device=bias.device, dtype=dtype)
    return (bias.to(dtype) - edit.strength * shift).to(bias.dtype)
