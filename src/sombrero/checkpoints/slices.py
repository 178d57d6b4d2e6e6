"""One tensor edited slice by slice: memory holds a few rows of it, never the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from sombrero.checkpoints.formats import decode, encode
from sombrero.checkpoints.header import TensorEntry
from sombrero.checkpoints.plan import TensorEdit
from sombrero.errors import NumericalError

SLICE_ELEMENTS = 1 << 21
"""Rows are taken together up to this many numbers: 4 MiB of bfloat16, 8 MiB of each float32 intermediate."""


@dataclass(frozen=True)
class Slice:
    """Rows of one tensor, on its first axis, that are read, edited and written together.

    entry: the rows alone, as a tensor: its shape, and its byte positions in the file. change: the edit of these rows.
    """

    entry: TensorEntry
    change: TensorEdit


@dataclass(frozen=True)
class EditedSlice:
    """What came of a slice: its new bytes, and the squared Frobenius norms of its change and of what it was."""

    data: bytearray | memoryview
    changed: float
    total: float


def cut(entry: TensorEntry, change: TensorEdit) -> Iterator[Slice]:
    """Yield the slices of a tensor, in file order; all of it in one when it is small.

    ``W' = D (W - s V A^T)`` holds row by row: rows of a ``linear`` weight ``(d, d_in)`` go with rows of V and of D,
    those of a ``conv1d`` weight ``(d_in, d)`` with rows of A. A bias is one slice.
    """
    rows = entry.shape[0] if entry.shape else 1
    step = max(1, SLICE_ELEMENTS // max(1, math.prod(entry.shape[1:])))
    if change.part == "bias" or step >= rows:
        yield Slice(entry, change)
        return
    row_bytes = entry.n_bytes // rows
    for first in range(0, rows, step):
        last = min(first + step, rows)
        begin, end = entry.begin + first * row_bytes, entry.begin + last * row_bytes
        part = replace(entry, shape=(last - first, *entry.shape[1:]), begin=begin, end=end)
        yield Slice(part, _restrict(change, first, last))


def edit_slice(raw: bytearray, item: Slice) -> EditedSlice:
    """Edit the bytes of a slice. Raises NumericalError when the result is not finite.

    A slice whose edit is lost in rounding to the stored dtype keeps its bytes: -0.0 does not become 0.0.
    """
    before = decode(raw, item.entry)
    after = item.change.apply(before)
    changed, total = _squares(before, after)
    if not math.isfinite(changed) and not bool(torch.isfinite(after).all()):
        raise NumericalError(
            f"tensor {item.entry.name!r} is not finite after its edit of strength {item.change.edit.strength} in "
            f"{item.entry.dtype}; lower the strength, or bake from a checkpoint with a wider dtype"
        )
    return EditedSlice(encode(after) if changed > 0 else raw, changed, total)


def relative_energy(changed: float, total: float) -> float:
    """``||W' - W||_F / ||W||_F`` from the squared norms of all slices of a tensor."""
    return math.sqrt(changed) / max(math.sqrt(total), torch.finfo(torch.float32).tiny)


def _restrict(change: TensorEdit, first: int, last: int) -> TensorEdit:
    edit = change.edit
    if change.writer.layout == "linear":
        scale = None if edit.row_scale is None else edit.row_scale[first:last]
        return replace(change, edit=replace(edit, V=edit.V[first:last], row_scale=scale))
    return replace(change, edit=replace(edit, A=edit.A[first:last]))


def _squares(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """Squared norms of the change and of ``before``: rows in float32 at least, their sum in float64."""
    dtype = torch.promote_types(before.dtype, torch.float32)
    old = before.to(dtype).reshape(before.shape[0] if before.dim() > 1 else 1, -1)
    new = after.to(dtype).reshape(old.shape)
    found = []
    for values in (new - old, old):
        norms = torch.linalg.vector_norm(values, dim=1)
        found.append(float(norms.to(torch.float64).square().sum()))
    return found[0], found[1]
