"""Proof of a bake without running the model: rows of the edited tensors, computed once more in another way.

For models too large to load. Every untouched tensor is compared by hash; of every edited one a random sample of rows is
computed from the base with numpy in float64, not with the kernel that baked them, and must agree within the rounding
of the stored format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sombrero.checkpoints.formats import Codec, Piece, block_shape, decode, find_codec
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.reading import TensorReader
from sombrero.checkpoints.rounding import half_gap
from sombrero.checkpoints.verify import verify_untouched
from sombrero.errors import CheckpointError
from sombrero.records import LowRankEdit, ModelEdit, Writer

ROWS = 32
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
    source: Path, baked: Path, edit: ModelEdit, writers: Sequence[Writer], *, rows: int = ROWS, seed: int = 0
) -> TensorVerification:
    """Compare the baked checkpoint with its base and the edit.

    rows: how many of each edited tensor are computed again, chosen with ``seed``. Raises CheckpointError when a tensor
    changed that has no edit, or a row is not what the edit gives.
    """
    before, after = CheckpointIndex.read(source), CheckpointIndex.read(baked)
    named = {writer.name: writer for writer in writers}
    generator = np.random.default_rng(seed)
    edited: list[str] = []
    n_rows = n_numbers = 0
    worst = 0.0
    with TensorReader(before) as old, TensorReader(after) as new:
        for name, change in edit.items():
            for tensor in _names(named[name], change):
                count, numbers, ratio = _check(tensor, named[name], change, old, new, rows, generator)
                n_rows, n_numbers, worst = n_rows + count, n_numbers + numbers, max(worst, ratio)
                edited.append(tensor)
    changed = _changed(edited, before, after)
    compared = verify_untouched(source, baked, changed)
    return TensorVerification(tuple(edited), len(compared.untouched), n_rows, n_numbers, worst)


def _names(writer: Writer, change: LowRankEdit) -> list[str]:
    removes = change.strength != 0 and bool(change.V.any())
    names = [writer.weight_name] if change.row_scale is not None or (removes and bool(change.reader.any())) else []
    moved = removes and change.c is not None and bool(change.c.any())
    if writer.bias_name is not None and (moved or change.row_scale is not None):
        names.append(writer.bias_name)
    return names


def _changed(edited: Sequence[str], before: CheckpointIndex, after: CheckpointIndex) -> list[str]:
    """The stored tensors of the edited weights whose bytes differ: rounding may have kept some, scales most of all."""
    names: list[str] = []
    with TensorReader(before) as old, TensorReader(after) as new:
        for weight in edited:
            stored = before.tensors.get(weight)
            entries = (stored,) if stored is not None and len(stored.shape) == 1 else _codec(before, weight).tensors
            for entry in entries:
                step = 1 << 22
                spans = ((begin, min(begin + step, entry.n_bytes)) for begin in range(0, entry.n_bytes, step))
                if any(old.read(entry.name, *span) != new.read(entry.name, *span) for span in spans):
                    names.append(entry.name)
    return names


def _codec(index: CheckpointIndex, weight: str) -> Codec:
    return find_codec(index.tensors, weight, block_shape(index.folder))


def _check(
    tensor: str,
    writer: Writer,
    change: LowRankEdit,
    old: TensorReader,
    new: TensorReader,
    rows: int,
    generator: np.random.Generator,
) -> tuple[int, int, float]:
    if tensor == writer.bias_name:
        return _check_bias(tensor, change, old, new)
    source, result = _codec(old.index, tensor), _codec(new.index, tensor)
    count = numbers = 0
    worst = 0.0
    for piece in _sample(source, rows, generator):
        base = source.decode(source.read(old.read, piece)).double().numpy()
        stored = result.read(new.read, piece)
        found = result.decode(stored).double().numpy()
        wanted, entering = _edited(base, change, writer, piece)
        allowed = half_gap(result, stored, torch.from_numpy(wanted)).numpy() * (1 + 1e-6) + _SLACK * entering
        worst = max(worst, _compare(tensor, piece.first, found, wanted, allowed))
        count, numbers = count + base.shape[0], numbers + base.size
    return count, numbers, worst


def _sample(codec: Codec, rows: int, generator: np.random.Generator) -> list[Piece]:
    """Random row steps over all matrices, as many as hold ``rows`` rows; each once."""
    steps = -(-codec.n_rows // codec.row_step)
    wanted = min(codec.n_matrices * steps, -(-rows // codec.row_step))
    chosen = generator.choice(codec.n_matrices * steps, size=wanted, replace=False)
    found = []
    for number in sorted(int(i) for i in chosen):
        matrix, first = number // steps, (number % steps) * codec.row_step
        found.append(Piece(matrix, first, min(first + codec.row_step, codec.n_rows)))
    return found


def _edited(base: Floats, change: LowRankEdit, writer: Writer, piece: Piece) -> tuple[Floats, Floats]:
    """The rows after the edit, and the size of the numbers that enter each of theirs."""
    V, A = (part.detach().cpu().double().numpy() for part in (change.V, change.reader))
    left, right = (A, V) if writer.layout == "conv1d" else (V, A)
    left = left[piece.first : piece.last]
    wanted = base - change.strength * (left @ right.T)
    entering = np.abs(base) + abs(change.strength) * (np.abs(left) @ np.abs(right).T)
    if change.row_scale is not None:
        scale = change.row_scale.detach().cpu().double().numpy()
        factor = scale if writer.layout == "conv1d" else scale[piece.first : piece.last, None]
        wanted, entering = wanted * factor, entering * np.abs(factor)
    return wanted, entering


def _check_bias(tensor: str, change: LowRankEdit, old: TensorReader, new: TensorReader) -> tuple[int, int, float]:
    base, found = (_vector(tensor, reader) for reader in (old, new))
    wanted, entering = base, np.abs(base)
    if change.c is not None:
        V, c = (part.detach().cpu().double().numpy() for part in (change.V, change.c))
        wanted = wanted - change.strength * (V @ c)
        entering = entering + abs(change.strength) * (np.abs(V) @ np.abs(c))
    if change.row_scale is not None:
        scale = change.row_scale.detach().cpu().double().numpy()
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
    ratio = np.abs(found - wanted) / allowed
    worst = float(ratio.max(initial=0.0))
    if not worst <= 1:
        place = np.unravel_index(int(np.nanargmax(ratio)), ratio.shape)
        raise CheckpointError(
            f"tensor {tensor!r} is not the edit of its base: near row {first + int(place[0])} it holds "
            f"{found[place]:.6g}, the edit gives {wanted[place]:.6g} (allowed error {allowed[place]:.2g}); bake again"
        )
    return worst
