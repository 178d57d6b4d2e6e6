"""Proof of a bake without running the model: rows of the edited tensors, computed once more in another way.

For models too large to load. Every untouched tensor is compared by hash; of every edited one a random sample of rows is
computed from the base with numpy in float64, not with the kernel that baked them, and must agree within the rounding
of the stored format. A weight that went from a packed format to bfloat16 is read in each as it is stored there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sombrero.checkpoints.formats import (
    DENSE,
    Codec,
    DenseCodec,
    Mxfp4Codec,
    Piece,
    Stored,
    TransposedCodec,
    block_shape,
    decode,
    find_codec,
    rows_of,
)
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.plan import as_stored, each_expert, is_packed
from sombrero.checkpoints.reading import TensorReader
from sombrero.checkpoints.rounding import half_gap
from sombrero.checkpoints.verify import verify_untouched
from sombrero.errors import CheckpointError
from sombrero.records import LowRankEdit, ModelEdit, Writer

ROWS = 32
MATRICES = 4
"""Of a stack of experts, rows of so many are computed again: what an edit reads off an expert takes all of it."""
_SLACK = 2.0**-18
"""Of the numbers that enter: what float32 arithmetic in the bake may add to the rounding of the stored format."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TensorVerification:
    """rows, numbers: of edited tensors that were computed again. worst: largest error over the error allowed."""

    edited: tuple[str, ...]
    untouched: int
    rows: int
    numbers: int
    worst: float


def verify_tensors(
    source: Path,
    baked: Path,
    edit: ModelEdit,
    writers: Sequence[Writer],
    *,
    carried: Collection[str] = (),
    rows: int = ROWS,
    seed: int = 0,
) -> TensorVerification:
    """Compare the baked checkpoint with its base and the edit.

    carried: packed weights whose rounding carried the edit over: numbers of theirs may lie one step further. rows: how
    many of each edited tensor are computed again, chosen with ``seed``. Raises CheckpointError when a tensor changed
    that has no edit, or a row is not what the edit gives.
    """
    before, after = CheckpointIndex.read(source), CheckpointIndex.read(baked)
    named = {writer.name: as_stored(before, writer) for writer in writers}
    generator = np.random.default_rng(seed)
    edited: list[str] = []
    n_rows = n_numbers = 0
    worst = 0.0
    with TensorReader(before) as old, TensorReader(after) as new:
        sides = _Sides(old, new, frozenset(carried), rows)
        for name, change in edit.items():
            for tensor in _names(named[name], change):
                count, numbers, ratio = _check(tensor, named[name], change, sides, generator)
                n_rows, n_numbers, worst = n_rows + count, n_numbers + numbers, max(worst, ratio)
                edited.append(tensor)
        gone, come = _other_forms(before, after)
        for weight in _converted(before, after, edited):
            count, numbers, ratio = _check_weight(weight, None, None, sides, generator)
            n_rows, n_numbers, worst = n_rows + count, n_numbers + numbers, max(worst, ratio)
    changed = [name for name in _changed(edited, before, after) if name not in gone]
    compared = verify_untouched(source, baked, changed, gone=gone, come=come)
    return TensorVerification(tuple(edited), len(compared.untouched), n_rows, n_numbers, worst)


@dataclass(frozen=True)
class _Sides:
    """Base and result, and how they are compared."""

    old: TensorReader
    new: TensorReader
    carried: frozenset[str]
    rows: int


def _names(writer: Writer, change: LowRankEdit) -> list[str]:
    removes = change.strength != 0 and bool(change.V.any())
    reads = removes and bool(change.reader.any())
    names = list(each_expert(writer, writer.weight_name)) if change.row_scale is not None or reads else []
    moved = removes and change.c is not None and bool(change.c.any())
    if writer.bias_name is not None and (moved or change.row_scale is not None or (reads and change.U is not None)):
        names += each_expert(writer, writer.bias_name)
    return names


def _other_forms(before: CheckpointIndex, after: CheckpointIndex) -> tuple[list[str], list[str]]:
    """Tensors of packed weights that are stored dense now: those that went, and those that took their place."""
    gone, come = [], []
    for weight in _unpacked(before, after):
        gone += [entry.name for entry in _codec(before, weight).tensors]
        come.append(weight)
    return gone, come


def _unpacked(before: CheckpointIndex, after: CheckpointIndex) -> Iterator[str]:
    for weight, entry in after.tensors.items():
        if is_packed(before, weight) and entry.dtype in DENSE:
            yield weight


def _converted(before: CheckpointIndex, after: CheckpointIndex, edited: Collection[str]) -> list[str]:
    return [weight for weight in _unpacked(before, after) if weight not in edited]


def _changed(edited: Sequence[str], before: CheckpointIndex, after: CheckpointIndex) -> list[str]:
    """The stored tensors of the edited weights whose bytes differ: rounding may have kept some, scales most of all."""
    names: list[str] = []
    with TensorReader(before) as old, TensorReader(after) as new:
        for weight in edited:
            stored = before.tensors.get(weight)
            entries = (stored,) if stored is not None and stored.dtype in DENSE else _codec(before, weight).tensors
            for entry in entries:
                if entry.name not in after.tensors or after.tensors[entry.name].n_bytes != entry.n_bytes:
                    continue
                step = 1 << 22
                spans = ((begin, min(begin + step, entry.n_bytes)) for begin in range(0, entry.n_bytes, step))
                if any(old.read(entry.name, *span) != new.read(entry.name, *span) for span in spans):
                    names.append(entry.name)
    return names


def _codec(index: CheckpointIndex, weight: str) -> Codec:
    return find_codec(index.tensors, weight, block_shape(index.folder))


def _check(
    tensor: str, writer: Writer, change: LowRankEdit, sides: _Sides, generator: np.random.Generator
) -> tuple[int, int, float]:
    if writer.bias_name is not None and tensor in each_expert(writer, writer.bias_name):
        return _check_bias(tensor, change, sides.old, sides.new)
    return _check_weight(tensor, writer, change, sides, generator)


def _check_weight(
    tensor: str, writer: Writer | None, change: LowRankEdit | None, sides: _Sides, generator: np.random.Generator
) -> tuple[int, int, float]:
    """change: None for a weight that only changed its form."""
    source, result = _codec(sides.old.index, tensor), _codec(sides.new.index, tensor)
    if isinstance(source, Mxfp4Codec) and isinstance(result, DenseCodec):
        result = TransposedCodec(result.entry)
    layout = "linear" if writer is None else writer.stored_layout
    packed = not isinstance(source, DenseCodec)
    outputs = layout in ("linear", "experts_out_in") or (packed and layout != "conv1d")
    reader: Floats | None = None
    entering_reader: Floats | None = None
    count = numbers = 0
    worst, of_matrix = 0.0, -1
    for piece in _sample(source, sides.rows, generator):
        base = source.decode(source.read(sides.old.read, piece)).double().numpy()
        wanted, entering = base, np.abs(base)
        if change is not None:
            if of_matrix != piece.matrix:
                of_matrix = piece.matrix
                reader, entering_reader = _reader(source, sides.old, change, piece.matrix, outputs=outputs)
            if reader is None or entering_reader is None:
                U = _array(change.U)
                reader_here, entering_here = base @ U, np.abs(base) @ np.abs(U)
            elif outputs:
                reader_here, entering_here = reader, entering_reader
            else:
                span = slice(piece.first, piece.last)
                reader_here, entering_here = reader[span], entering_reader[span]
            wanted, entering = _edited(base, change, reader_here, entering_here, piece, outputs=outputs)
        found, stored = _result_rows(result, sides.new, piece)
        near = torch.from_numpy(wanted)
        if tensor in sides.carried:
            near = torch.maximum(near.abs(), torch.from_numpy(found).abs())
        rounding: Codec = DenseCodec(result.entry) if isinstance(result, TransposedCodec) else result
        steps = 3 if tensor in sides.carried else 1  # half a step, or a whole one more
        allowed = steps * half_gap(rounding, stored, near).numpy() * (1 + 1e-6) + _SLACK * entering
        worst = max(worst, _compare(tensor, piece.first, found, wanted, allowed))
        count, numbers = count + base.shape[0], numbers + base.size
    return count, numbers, worst


def _result_rows(codec: Codec, reader: TensorReader, piece: Piece) -> tuple[Floats, Stored]:
    stored = codec.read(reader.read, piece)
    found: Floats = codec.decode(stored).double().numpy()
    return (found[piece.first : piece.last] if isinstance(codec, TransposedCodec) else found), stored


def _array(tensor: torch.Tensor | None) -> Floats:
    assert tensor is not None
    values: Floats = tensor.detach().cpu().double().numpy()
    return values


def _reader(
    codec: Codec, old: TensorReader, change: LowRankEdit, matrix: int, *, outputs: bool
) -> tuple[Floats | None, Floats | None]:
    """What one matrix reads its amount with, A or ``W^T U``, and the size of what enters it; None where each stored row
    has its own, as rows of inputs do for an edit that reads the output."""
    if change.A is not None:
        A = _array(change.A)
        return A, np.abs(A)
    if not outputs:
        return None, None
    U = _array(change.U)
    found, entering = np.zeros((codec.n_columns, U.shape[1])), np.zeros((codec.n_columns, U.shape[1]))
    for piece in rows_of(codec, Piece(matrix, 0, codec.n_rows), 1 << 20):
        rows = codec.decode(codec.read(old.read, piece)).double().numpy()
        part = U[piece.first : piece.last]
        found += rows.T @ part
        entering += np.abs(rows).T @ np.abs(part)
    return found, entering


def _sample(codec: Codec, rows: int, generator: np.random.Generator) -> list[Piece]:
    """Random row steps, as many as hold ``rows`` rows, each once; of a few of the matrices, where there are more."""
    steps = -(-codec.n_rows // codec.row_step)
    matrices = np.sort(generator.choice(codec.n_matrices, size=min(codec.n_matrices, MATRICES), replace=False))
    wanted = min(len(matrices) * steps, -(-rows // codec.row_step))
    chosen = generator.choice(len(matrices) * steps, size=wanted, replace=False)
    found = []
    for number in sorted(int(i) for i in chosen):
        first = (number % steps) * codec.row_step
        found.append(Piece(int(matrices[number // steps]), first, min(first + codec.row_step, codec.n_rows)))
    return found


def _edited(
    base: Floats, change: LowRankEdit, reader: Floats, entering_reader: Floats, piece: Piece, *, outputs: bool
) -> tuple[Floats, Floats]:
    """The rows after the edit, and the size of the numbers that enter each of theirs. reader: A, or the rows of it that
    go with these rows where rows are inputs."""
    V = _array(change.V)
    V = V[piece.first : piece.last] if outputs else V
    left, right = (V, reader) if outputs else (reader, V)
    entering_left, entering_right = (np.abs(V), entering_reader) if outputs else (entering_reader, np.abs(V))
    wanted = base - change.strength * (left @ right.T)
    entering = np.abs(base) + abs(change.strength) * (entering_left @ entering_right.T)
    if change.row_scale is not None:
        scale = _array(change.row_scale)
        factor = scale[piece.first : piece.last, None] if outputs else scale
        wanted, entering = wanted * factor, entering * np.abs(factor)
    return wanted, entering


def _check_bias(tensor: str, change: LowRankEdit, old: TensorReader, new: TensorReader) -> tuple[int, int, float]:
    base, found = (_vector(tensor, reader) for reader in (old, new))
    wanted, entering = base, np.abs(base)
    V = _array(change.V)
    if change.c is not None:
        c = _array(change.c)
        wanted = wanted - change.strength * (V @ c)
        entering = entering + abs(change.strength) * (np.abs(V) @ np.abs(c))
    if change.U is not None:
        U = _array(change.U)
        wanted = wanted - change.strength * (base @ U @ V.T)
        entering = entering + abs(change.strength) * (np.abs(base) @ np.abs(U) @ np.abs(V).T)
    if change.row_scale is not None:
        scale = _array(change.row_scale)
        wanted, entering = wanted * scale, entering * np.abs(scale)
    eps = _EPS[new.index.tensors[tensor].dtype]
    worst = _compare(tensor, 0, found, wanted, np.abs(wanted) * (eps / 2) + _SLACK * entering)
    return 1, base.size, worst


_EPS: Mapping[str, float] = {"F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}


def _vector(tensor: str, reader: TensorReader) -> Floats:
    entry = reader.index.tensors[tensor]
    values: Floats = decode(reader.read(tensor, 0, entry.n_bytes), entry).double().numpy()
    return values


def _compare(tensor: str, first: int, found: Floats, wanted: Floats, allowed: Floats) -> float:
    """The largest error over what is allowed; CheckpointError where it is above 1."""
    error = np.abs(found - wanted)
    ratio = np.divide(error, allowed, out=np.where(error == 0, 0.0, np.inf), where=allowed > 0)  # zero stays zero
    ratio[np.isnan(error)] = np.inf
    worst = float(ratio.max(initial=0.0))
    if not worst <= 1:
        place = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        raise CheckpointError(
            f"tensor {tensor!r} is not the edit of its base: near row {first + int(place[0])} it holds "
            f"{found[place]:.6g}, the edit gives {wanted[place]:.6g} (allowed error {allowed[place]:.2g}); bake again"
        )
    return worst
