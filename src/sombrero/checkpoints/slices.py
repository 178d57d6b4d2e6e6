"""One tensor edited slice by slice: memory holds a few rows of it, never the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from sombrero.checkpoints.formats import decode
from sombrero.checkpoints.header import TensorEntry
from sombrero.checkpoints.plan import TensorEdit
from sombrero.edits.kernels import EXPERT_LAYOUTS
from sombrero.errors import NumericalError

SLICE_ELEMENTS = 1 << 21
"""Rows are read and written together up to this many numbers: 4 MiB of bfloat16."""
BLOCK_ELEMENTS = 1 << 17
"""They are computed up to this many at a time: 512 KiB of float32, so that the steps of an edit meet in the cache."""


Norms = tuple[float, float]
ReadBytes = Callable[[int, int], bytearray]
"""Gives the bytes of the source file from one position to another."""
WriteBytes = Callable[[int, bytearray], None]
"""Takes bytes for the place that those of the source file at this position have in the new one."""


@dataclass(frozen=True)
class Slice:
    """Rows of one tensor, on its first axis, that are read, edited and written together.

    entry: the rows alone, as a tensor: its shape, and its byte positions in the file. change: the edit of these rows.
    """

    entry: TensorEntry
    change: TensorEdit

    def carry_out(self, read: ReadBytes, write: WriteBytes) -> Norms:
        """Edit the rows; return the squared Frobenius norms of their change and of what they were."""
        raw = read(self.entry.begin, self.entry.end)
        norms = edit_slice(raw, self)
        write(self.entry.begin, raw)
        return norms


def cut(entry: TensorEntry, change: TensorEdit) -> Iterator[Slice]:
    """Yield the slices of a tensor, in file order; all of it in one when it is small.

    ``W' = D (W - s V A^T)`` holds row by row: rows of a ``linear`` weight ``(d, d_in)`` go with rows of V and of D,
    those of a ``conv1d`` weight ``(d_in, d)`` with rows of A; an edit that reads the output (U in place of A) takes a
    ``linear`` weight whole. Experts ``(E, ...)`` are cut between experts, each with
    the whole edit. A bias is one slice.
    """
    for first, last, part in _rows(entry.shape, change, SLICE_ELEMENTS):
        row_bytes = entry.n_bytes // max(1, entry.shape[0])
        begin, end = entry.begin + first * row_bytes, entry.begin + last * row_bytes
        yield Slice(replace(entry, shape=(last - first, *entry.shape[1:]), begin=begin, end=end), part)


def edit_slice(raw: bytearray, item: Slice) -> Norms:
    """Edit the bytes of a slice in place; return the squared Frobenius norms of its change and of what it was.

    Rows whose edit is lost in rounding to the stored dtype keep their bytes: -0.0 does not become 0.0. Raises
    NumericalError when the result is not finite.
    """
    rows = decode(raw, item.entry)
    changed, total = 0.0, 0.0
    for first, last, part in _rows(item.entry.shape, item.change, BLOCK_ELEMENTS):
        before = rows[first:last]
        after = part.apply(before)
        difference, size = _squares(before, after)
        if not math.isfinite(difference + size):
            _require_finite(item, after)
            difference, size = _squares(before.double(), after.double())  # finite, but their squares are not in float32
        if difference > 0:
            before.copy_(after)  # into raw: its memory is the tensor's
        changed, total = changed + difference, total + size
    return changed, total


def relative_energy(changed: float, total: float) -> float:
    """``||W' - W||_F / ||W||_F`` from the squared norms of all slices of a tensor."""
    return math.sqrt(changed) / max(math.sqrt(total), torch.finfo(torch.float32).tiny)


def _rows(shape: tuple[int, ...], change: TensorEdit, max_elements: int) -> Iterator[tuple[int, int, TensorEdit]]:
    """Yield ranges of rows of at most so many numbers, but one row at least, each with its part of the edit."""
    step = max(1, max_elements // max(1, math.prod(shape[1:])))
    layout = change.writer.stored_layout
    # What reads the output sums over the rows of a linear weight: they stay together.
    whole = change.part == "bias" or (layout == "linear" and change.edit.A is None)
    if whole or step >= shape[0]:
        yield 0, shape[0], change
        return
    for first in range(0, shape[0], step):
        last = min(first + step, shape[0])
        yield first, last, change if layout in EXPERT_LAYOUTS else _restrict(change, first, last)


def _restrict(change: TensorEdit, first: int, last: int) -> TensorEdit:
    edit = change.edit
    if change.writer.stored_layout == "linear":
        scale = None if edit.row_scale is None else edit.row_scale[first:last]
        return replace(change, edit=replace(edit, V=edit.V[first:last], row_scale=scale))
    if edit.A is None:
        return change
    return replace(change, edit=replace(edit, A=edit.A[first:last]))


def _require_finite(item: Slice, after: torch.Tensor) -> None:
    if not bool(torch.isfinite(after).all()):
        raise NumericalError(
            f"tensor {item.entry.name!r} is not finite after its edit of strength {item.change.edit.strength} in "
            f"{item.entry.dtype}; lower the strength, or bake from a checkpoint with a wider dtype"
        )


def _squares(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """Squared Frobenius norms of the change and of ``before``, in float32 at least: enough for one block."""
    dtype = torch.promote_types(before.dtype, torch.float32)
    old = before.reshape(-1).to(dtype)
    change = after.reshape(-1).to(dtype, copy=True).sub_(old)
    return float(torch.dot(change, change)), float(torch.dot(old, old))
