"""Edited weights that a checkpoint stores packed (MXFP4, FP8, INT8): what becomes of each, and the pieces to do it in.

A packed weight lies in several tensors (codes and scales), which are written together. They keep their format
(``nearest``, ``carry``), or the weight is kept in bfloat16 ``beside`` the quantized rest, where the loader has a list
of modules that are not quantized. Of fused experts one expert is in memory at a time, of other weights a few rows.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from sombrero.checkpoints.formats import (
    DenseCodec,
    Mxfp4Codec,
    Piece,
    ReadBytes,
    ScaledCodec,
    SliceEdit,
    Stored,
    TransposedCodec,
    WriteBytes,
    dense_forms,
    edit_piece,
    encode,
    find_codec,
    low_rank_slices,
    permits_dense,
    reads_of_output,
    rows_of,
)
from sombrero.checkpoints.formats.requantize import MAX_ELEMENTS
from sombrero.checkpoints.header import TensorEntry
from sombrero.edits.kernels import edit_weight
from sombrero.errors import CheckpointError, NumericalError
from sombrero.records import LowRankEdit, Writer

Packing = Literal["nearest", "carry", "beside"]
"""How edited numbers of a packed weight are stored; see the module."""
_CARRIERS = threading.BoundedSemaphore(2)
"""Carrying over holds a whole matrix some nine times in float32: no more workers do it at once, on any machine."""
PART_ELEMENTS = 1 << 21
"""Rows of a weight that is no stack of experts are written together up to this many numbers."""


@dataclass(frozen=True)
class PackedChange:
    """One packed weight whose stored tensors are written anew.

    into: its form beside the quantized rest; None where it keeps its format. rows_are_outputs: of the decoded rows.
    writer, edit: None where the weight keeps its numbers and only changes its form, as its module does. module: what
    the configuration must leave out, where ``how`` is ``beside``.
    """

    weight_name: str
    codec: Mxfp4Codec | ScaledCodec
    how: Packing
    rows_are_outputs: bool = True
    writer: Writer | None = None
    edit: LowRankEdit | None = None
    into: DenseCodec | TransposedCodec | None = None
    module: str | None = None

    @property
    def stored(self) -> tuple[TensorEntry, ...]:
        """The tensors of the source that hold the weight, the one with the numbers first."""
        return self.codec.tensors

    @property
    def new(self) -> TensorEntry | None:
        """The tensor that takes their place; None where they stay."""
        return None if self.into is None else self.into.tensors[0]

    @property
    def new_format(self) -> str:
        return (self.into or self.codec).format

    def pieces(self) -> Iterator[Piece]:
        """The weight in what is read, edited and written together, in order."""
        whole = [Piece(matrix, 0, self.codec.n_rows) for matrix in range(self.codec.n_matrices)]
        if self._needs_a_whole_matrix:
            yield from whole
            return
        for matrix in whole:
            yield from rows_of(self.codec, matrix, PART_ELEMENTS)

    @property
    def _needs_a_whole_matrix(self) -> bool:
        reads_output = self.edit is not None and self.edit.A is None and self.rows_are_outputs
        return reads_output or self.how == "carry" or isinstance(self.into, TransposedCodec) or self.is_tall

    @property
    def is_tall(self) -> bool:
        """Whether one scale holds for all rows of a matrix."""
        return isinstance(self.codec, ScaledCodec) and self.codec.block[0] >= self.codec.n_rows


def plan_packed(
    tensors: Mapping[str, TensorEntry],
    weight_name: str,
    writer: Writer,
    edit: LowRankEdit,
    how: Packing | None,
    config: Mapping[str, Any],
    block: tuple[int, int] | None,
) -> tuple[PackedChange, ...]:
    """What becomes of a packed weight and, where it goes to bfloat16, of the others of its module.

    how: None takes ``beside`` where the loader permits it, else ``nearest``. config: content of config.json. block:
    its ``weight_block_size``. Raises CheckpointError when the weight cannot be stored so.
    """
    codec = find_codec(tensors, weight_name, block)
    if not isinstance(codec, Mxfp4Codec | ScaledCodec):
        raise AssertionError(f"{weight_name} is not packed")
    outputs = writer.stored_layout != "conv1d"
    refusal = _why_not_beside(codec, weight_name, writer, config)
    if how is None:
        how = "nearest" if refusal else "beside"
    if how == "beside" and refusal:
        raise CheckpointError(
            f"{weight_name!r} ({codec.format}) cannot be kept in bfloat16 beside the rest: {refusal}; take --packed "
            "nearest or --packed carry"
        )
    if how == "carry" and not outputs:
        raise CheckpointError(f"{weight_name!r} has inputs as rows, which no rounding carries over; take another way")
    if how != "beside":
        return (PackedChange(weight_name, codec, how, outputs, writer, edit),)
    changes = []
    for form in dense_forms(tensors, weight_name, block):
        new = form.into.tensors[0].name
        if new in tensors and new not in form.replaced:
            raise CheckpointError(f"{new!r} is stored both packed and dense; the checkpoint is damaged, fetch it again")
        own = form.weight_name == weight_name
        changes.append(
            PackedChange(
                form.weight_name,
                form.codec,
                how,
                outputs,
                writer if own else None,
                edit if own else None,
                form.into,
                form.module,
            )
        )
    return tuple(changes)


def _why_not_beside(
    codec: Mxfp4Codec | ScaledCodec, weight_name: str, writer: Writer, config: Mapping[str, Any]
) -> str | None:
    if not permits_dense(config):
        return "the loader of its quantization has no list of modules that are left out"
    if isinstance(codec, ScaledCodec) and writer.n_experts is not None:
        return "experts of this format are loaded together, all of them quantized or none"
    if isinstance(codec, Mxfp4Codec) and codec.n_matrices != (writer.n_experts or 0):
        return "only fused experts are known to load so"
    if not weight_name.rpartition(".")[0]:
        return "its module has no name"
    return None


@dataclass(frozen=True)
class PackedNorms:
    """sums: the five of :class:`~sombrero.checkpoints.formats.Requantization`. changed: of each tensor that stores the
    weight, whether its bytes did."""

    sums: torch.Tensor
    changed: tuple[bool, ...]

    def __add__(self, other: PackedNorms) -> PackedNorms:
        changed = tuple(a or b for a, b in zip(self.changed, other.changed, strict=True))
        return PackedNorms(self.sums + other.sums, changed)


@dataclass(frozen=True)
class PackedPart:
    """One piece of a packed weight: all its stored tensors are read, edited and written together."""

    change: PackedChange
    piece: Piece

    def carry_out(self, read: ReadBytes, write: WriteBytes) -> PackedNorms:
        """Raises NumericalError when an edited number is not finite, CheckpointError when the source ends early."""
        with _CARRIERS if self.change.how == "carry" else nullcontext():
            return self._carry_out(read, write)

    def _carry_out(self, read: ReadBytes, write: WriteBytes) -> PackedNorms:
        change, codec = self.change, self.change.codec
        if change.edit is None:
            return self._change_form(read, write)
        read = _held(codec, read, self.piece)
        codec, edit = prepare(change, read, self.piece)
        rows = codec.n_rows if change.how == "carry" else 1
        V = torch.linalg.qr(change.edit.V.detach().to("cpu", torch.float32)).Q if change.how == "carry" else None
        into = _Into(change.into, write) if change.into is not None else None
        sums = torch.zeros(5, dtype=torch.float64)
        changed = [into is not None] * len(codec.tensors)
        for piece in rows_of(codec, self.piece, MAX_ELEMENTS, rows):
            stored = codec.read(read, piece)
            coded, found = edit_piece(codec, stored, edit, piece, None if into is None else into.by_rows, V)
            sums += found
            if into is not None:
                into.put(piece, coded[0])
            else:
                codec.write(write, piece, coded)
                changed = [old or new for old, new in zip(changed, _differ(stored, coded), strict=True)]
        if into is not None:
            into.finish(self.piece)
        return PackedNorms(sums, tuple(changed))

    def _change_form(self, read: ReadBytes, write: WriteBytes) -> PackedNorms:
        """Write the numbers as they are in the other form."""
        change, codec = self.change, self.change.codec
        assert change.into is not None, "a weight that keeps its numbers and its form is not rewritten"
        if isinstance(codec, ScaledCodec) and change.is_tall:
            codec = replace(codec, by_rows=True)
        into = _Into(change.into, write)
        held = _held(codec, read, self.piece)
        for piece in rows_of(codec, self.piece, MAX_ELEMENTS):
            values = codec.decode(codec.read(held, piece))
            rows = into.by_rows.encode(values, ())[0]
            if not bool(torch.isfinite(rows.sum())) and not bool(torch.isfinite(rows).all()):
                raise NumericalError(f"{change.weight_name!r} holds numbers that are not finite; fetch it again")
            into.put(piece, rows)
        into.finish(self.piece)
        return PackedNorms(torch.zeros(5, dtype=torch.float64), (True,) * len(codec.tensors))


class _Into:
    """The dense form that a piece is written in: rows as they come, or one expert by its columns in the end."""

    def __init__(self, into: DenseCodec | TransposedCodec, write: WriteBytes) -> None:
        self._into, self._write = into, write
        self._whole: torch.Tensor | None = None
        self.by_rows = into if isinstance(into, DenseCodec) else _by_rows(into)
        if isinstance(into, TransposedCodec):
            self._whole = torch.empty(into.n_columns, into.n_rows, dtype=torch.bfloat16)

    def put(self, piece: Piece, rows: torch.Tensor) -> None:
        if self._whole is None:
            self.by_rows.write(self._write, piece, (rows,))
        else:
            self._whole[:, piece.first : piece.last] = rows.T

    def finish(self, piece: Piece) -> None:
        if self._whole is not None:
            self._write(self._into.entry.name, piece.matrix * self._whole.nbytes, encode(self._whole))


def _held(codec: Mxfp4Codec | ScaledCodec, read: ReadBytes, piece: Piece) -> ReadBytes:
    """The stored bytes of a piece in memory: they may be gone through twice."""
    held = {}
    for store in codec.stores:
        begin, end = store.extent(piece)
        held[store.entry.name] = begin, read(store.entry.name, begin, end)

    def from_memory(name: str, begin: int, end: int, /) -> bytearray:
        start, raw = held[name]
        return raw[begin - start : end - start]

    return from_memory


def prepare(change: PackedChange, read: ReadBytes, piece: Piece) -> tuple[Mxfp4Codec | ScaledCodec, SliceEdit]:
    """The codec and the edit of a piece of a weight; it is a whole matrix where one of them needs that."""
    codec = change.codec
    assert change.edit is not None, "a weight without an edit is not edited"
    edit = _slice_edit(change, change.edit, read, piece.matrix)
    if isinstance(codec, ScaledCodec) and change.is_tall and change.how != "carry":
        codec = replace(codec, by_rows=True) if change.into else codec.settled(read, edit, MAX_ELEMENTS)
    return codec, edit


def _slice_edit(change: PackedChange, edit: LowRankEdit, read: ReadBytes, matrix: int) -> SliceEdit:
    if edit.A is None and not change.rows_are_outputs:
        by_row = edit  # each row has what it reads
        return lambda rows, _piece: edit_weight(rows, by_row, "conv1d")
    if edit.A is None:
        assert edit.U is not None, "an edit reads either the input or the output"
        U = edit.U.detach().to("cpu", torch.float32)
        edit = replace(edit, A=reads_of_output(change.codec, read, U, matrix), U=None)
    return low_rank_slices(edit, rows_are_outputs=change.rows_are_outputs)


def _by_rows(into: TransposedCodec) -> DenseCodec:
    """The same numbers by rows of outputs."""
    return DenseCodec(replace(into.entry, shape=(into.n_matrices, into.n_rows, into.n_columns)))


def _differ(before: Stored, after: Stored) -> Sequence[bool]:
    def raw(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous().reshape(-1).view(torch.uint8)

    pairs = zip(before, after, strict=True)
    return [old is not new and not torch.equal(raw(old), raw(new)) for old, new in pairs]


def dense_extent(change: PackedChange, piece: Piece) -> tuple[int, int]:
    """First and last byte (exclusive) of a piece in the data of the tensor that takes the packed ones' place."""
    assert change.new is not None
    row = change.codec.n_columns * change.new.n_bytes // max(1, math.prod(change.new.shape))
    first = piece.matrix * change.codec.n_rows
    return (first + piece.first) * row, (first + piece.last) * row
