"""What differs between two checkpoints, tensor by tensor: its rank, its energy, and what kind of edit it looks like.

Both are read in slices, in any of the formats that can be edited; either may come from another tool. What rounding to
the stored dtype adds to a difference is estimated from the gaps of the edited checkpoint's numbers and told apart from
what the edit itself did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sombrero.checkpoints.formats import (
    DENSE,
    Codec,
    DenseCodec,
    Mxfp4Codec,
    Piece,
    TransposedCodec,
    block_shape,
    decode,
)
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.looks import Change, Directions, Kind, Looks, Shape, judge_change, judge_edit
from sombrero.checkpoints.reading import StoredWeight, TensorReader, stored_weights
from sombrero.checkpoints.rounding import half_gap
from sombrero.checkpoints.sketch import Sketch

MAX_ELEMENTS = 1 << 20
SKETCH = 32
"""Singular values that are looked for in each difference."""


@dataclass(frozen=True)
class CheckpointDiff:
    """same: weights whose numbers agree. changes: those that differ. only_base, only_edited: those of one alone.

    other_shape: those whose shapes differ. bytes_differ: tensors that are no matrix of numbers, whose bytes differ.
    """

    same: tuple[str, ...]
    changes: tuple[Change, ...]
    only_base: tuple[str, ...]
    only_edited: tuple[str, ...]
    other_shape: tuple[str, ...]
    bytes_differ: tuple[str, ...]
    looks: Looks


def diff_checkpoints(
    base: Path, edited: Path, *, seed: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> CheckpointDiff:
    """Compare two checkpoints. Memory is that of one slice and of a sketch of one tensor, never a model's.

    on_progress gets weights done and in all. Raises CheckpointError when one of them cannot be read.
    """
    before, after = CheckpointIndex.read(base), CheckpointIndex.read(edited)
    old = {weight.name: weight for weight in stored_weights(before, block_shape(base))}
    new = {weight.name: weight for weight in stored_weights(after, block_shape(edited))}
    same: list[str] = []
    changes: list[tuple[Change, Directions]] = []
    other_shape: list[str] = []
    bytes_differ: list[str] = []
    common = [name for name in old if name in new]
    with TensorReader(before) as reader, TensorReader(after) as other:
        for done, name in enumerate(common):
            a, b = _alike(old[name], new[name])
            if _equal_bytes(a, b, reader, other):
                same.append(name)
            elif a.codec is None or b.codec is None:
                found = _vector_change(a, b, reader, other)
                if found is None:
                    bytes_differ.append(name)
                elif found.energy == 0:
                    same.append(name)
                else:
                    changes.append((found, None))
            elif _shape(a.codec) != _shape(b.codec):
                other_shape.append(name)
            else:
                found_all = list(_matrix_changes(name, a.codec, b.codec, reader, other, seed))
                changes.extend(found_all)
                if not found_all:
                    same.append(name)
            if on_progress is not None:
                on_progress(done + 1, len(common))
    return CheckpointDiff(
        same=tuple(same),
        changes=tuple(change for change, _ in changes),
        only_base=tuple(name for name in old if name not in new),
        only_edited=tuple(name for name in new if name not in old),
        other_shape=tuple(other_shape),
        bytes_differ=tuple(bytes_differ),
        looks=judge_edit(changes),
    )


def _alike(a: StoredWeight, b: StoredWeight) -> tuple[StoredWeight, StoredWeight]:
    """Both seen by rows of outputs, where one holds fused experts in MXFP4 and the other in dense floats: loaders
    have these transposed."""
    return _as_rows_of(a, b), _as_rows_of(b, a)


def _as_rows_of(weight: StoredWeight, other: StoredWeight) -> StoredWeight:
    codec = weight.codec
    if isinstance(codec, DenseCodec) and len(codec.entry.shape) == 3 and isinstance(other.codec, Mxfp4Codec):
        return replace(weight, codec=TransposedCodec(codec.entry))
    return weight


def _shape(codec: Codec) -> tuple[int, int, int]:
    return codec.n_matrices, codec.n_rows, codec.n_columns


def _equal_bytes(a: StoredWeight, b: StoredWeight, old: TensorReader, new: TensorReader) -> bool:
    forms = [[(entry.name, entry.dtype, entry.shape) for entry in weight.tensors] for weight in (a, b)]
    if forms[0] != forms[1]:
        return False
    step = MAX_ELEMENTS * 4
    return all(
        old.read(entry.name, begin, min(begin + step, entry.n_bytes))
        == new.read(entry.name, begin, min(begin + step, entry.n_bytes))
        for entry in a.tensors
        for begin in range(0, entry.n_bytes, step)
    )


def _vector_change(a: StoredWeight, b: StoredWeight, old: TensorReader, new: TensorReader) -> Change | None:
    """The change of a tensor of one axis (norms, biases); None where it is none of dense floats of the same shape."""
    first, second = a.tensors[0], b.tensors[0]
    if first.shape != second.shape or first.dtype not in DENSE or second.dtype not in DENSE:
        return None
    values = [
        decode(reader.read(entry.name, 0, entry.n_bytes), entry).double()
        for reader, entry in ((old, first), (new, second))
    ]
    change = values[1] - values[0]
    gap = torch.finfo(DENSE[second.dtype]).eps / 2 * values[1].abs()
    kind: Kind = "rounding" if first.dtype != second.dtype and bool((change.abs() <= gap).all()) else "vector"
    weight = float(values[0].square().sum())
    return Change(
        a.name, first.shape, math.sqrt(float(change.square().sum()) / max(weight, 1e-300)), None, None, 0.0, kind
    )


def _matrix_changes(
    name: str, a: Codec, b: Codec, old: TensorReader, new: TensorReader, seed: int
) -> Iterator[tuple[Change, Directions]]:
    for matrix in range(a.n_matrices):
        label = f"{name}[{matrix}]" if a.n_matrices > 1 else name
        found = _matrix_change(label, matrix, a, b, old, new, seed)
        if found is not None:
            yield found


def _rows(
    matrix: int, a: Codec, b: Codec, old: TensorReader, new: TensorReader
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """First row, rows of the base and of the edited matrix (float32), and the half gaps of the latter, by slices."""
    step = math.lcm(a.row_step, b.row_step)
    height = max(1, MAX_ELEMENTS // max(1, a.n_columns * step)) * step
    for first in range(0, a.n_rows, height):
        piece = Piece(matrix, first, min(first + height, a.n_rows))
        stored = b.read(new.read, piece)
        after = b.decode(stored)
        yield first, a.decode(a.read(old.read, piece)).float(), after.float(), half_gap(b, stored, after)


def _matrix_change(
    name: str, matrix: int, a: Codec, b: Codec, old: TensorReader, new: TensorReader, seed: int
) -> tuple[Change, Directions] | None:
    shape = (a.n_rows, a.n_columns)
    plain, rescaled = (Sketch(*shape, SKETCH, seed) for _ in range(2))
    weight = 0.0
    row_noise, column_noise = torch.zeros(shape[0], dtype=torch.float64), torch.zeros(shape[1], dtype=torch.float64)
    norms, slopes = torch.zeros(shape[0], 2, dtype=torch.float64), torch.zeros(shape[0])
    for first, before, after, gap in _rows(matrix, a, b, old, new):
        part = slice(first, first + len(before))
        plain.range(first, after - before)
        # the whole difference, and what is left when each row may have been rescaled
        square = before.double().square().sum(dim=1)
        slopes[part] = ((after.double() * before).sum(dim=1) / square.clamp(min=1e-300)).float()
        rescaled.range(first, after - slopes[part, None] * before)
        norms[part, 0], norms[part, 1] = square, after.double().square().sum(dim=1)
        weight += float(square.sum())
        variance = gap.square_() / 3  # of an error that is uniform within half a gap
        row_noise[part] = variance.sum(dim=1)
        column_noise += variance.sum(dim=0)
    if plain.energy == 0:
        return None
    projected = torch.zeros(plain.size, shape[1])
    for first, before, after, _ in _rows(matrix, a, b, old, new):
        part = slice(first, first + len(before))
        plain.project(first, after - before)
        rescaled.project(first, after - slopes[part, None] * before)
        projected += plain.basis[part].T @ before
    noise = float(row_noise.sum())
    # no random matrix with these variances has a larger singular value (Bandeira and van Handel 2016, up to a log term)
    threshold = math.sqrt(float(row_noise.max())) + math.sqrt(float(column_noise.max()))
    found = Shape(plain.spectrum(), rescaled.spectrum(), plain.basis, projected, norms.sqrt(), noise, threshold)
    return judge_change(name, shape, weight, found)
