"""What a codec is: a weight stored in one or more tensors, read and written by rows, so that memory stays bounded.

A stored weight is a stack of matrices: one for a plain layer, one for each expert where experts are fused. Rows are
those of the matrix *as stored*; which of its axes is the residual one is the writer's layout, not the codec's matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from sombrero.checkpoints.header import TensorEntry
from sombrero.errors import CheckpointError


@dataclass(frozen=True)
class Piece:
    """Rows ``first`` to ``last`` (exclusive) of matrix number ``matrix`` of a stored weight."""

    matrix: int
    first: int
    last: int


class ReadBytes(Protocol):
    """Gives the bytes ``begin`` to ``end`` of the data of the stored tensor ``name``."""

    def __call__(self, name: str, begin: int, end: int, /) -> bytearray: ...


class WriteBytes(Protocol):
    """Takes the bytes of the stored tensor ``name`` from ``begin`` on; calls come in rising order for each name."""

    def __call__(self, name: str, begin: int, data: memoryview, /) -> None: ...


Stored = tuple[torch.Tensor, ...]
"""The stored tensors of one piece, in the order of :attr:`Codec.tensors`."""


SliceEdit = Callable[[torch.Tensor, Piece], torch.Tensor]
"""Gives the edited rows for the rows ``(n, n_columns)`` of a piece, as stored, in memory of their own; it may be called
twice for a piece."""


class Codec(Protocol):
    """One weight in one format.

    format: its name for people. tensors: the entries that store it. n_matrices, n_rows, n_columns: its shape once
    decoded. row_step: a piece holds whole multiples of so many rows, or reaches to the last row.
    """

    @property
    def format(self) -> str: ...
    @property
    def tensors(self) -> tuple[TensorEntry, ...]: ...
    @property
    def n_matrices(self) -> int: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_columns(self) -> int: ...
    @property
    def row_step(self) -> int: ...
    @property
    def keeps_bytes(self) -> bool:
        """Whether a piece that the edit does not change may keep its stored bytes."""
        ...

    def settled(self, read: ReadBytes, edit: SliceEdit, max_elements: int) -> Codec:
        """The codec to edit with, after a look at the whole weight where its format needs one."""
        ...

    def read(self, read: ReadBytes, piece: Piece) -> Stored:
        """The stored tensors of ``piece``."""
        ...

    def decode(self, stored: Stored) -> torch.Tensor:
        """What a loader makes of them: ``(rows, n_columns)`` float32 (float64 where so stored), own memory."""
        ...

    def encode(self, values: torch.Tensor, stored: Stored) -> Stored:
        """The nearest stored form of ``values``; ``stored`` is what was there, whose scales stay where they can."""
        ...

    def write(self, write: WriteBytes, piece: Piece, stored: Stored) -> None:
        """Write the stored tensors of ``piece``."""
        ...


def pieces(codec: Codec, max_elements: int, row_step: int = 1) -> Iterator[Piece]:
    """All pieces of a weight in order, each of at most ``max_elements``, or of one row step where that is more.

    row_step: of another codec that must be able to hold the same pieces.
    """
    for matrix in range(codec.n_matrices):
        yield from rows_of(codec, Piece(matrix, 0, codec.n_rows), max_elements, row_step)


def rows_of(codec: Codec, whole: Piece, max_elements: int, row_step: int = 1) -> Iterator[Piece]:
    """The pieces, as of :func:`pieces`, of a larger one that begins at a row step."""
    step = math.lcm(codec.row_step, row_step)
    height = max(1, max_elements // max(1, codec.n_columns * step)) * step
    for first in range(whole.first, whole.last, height):
        yield Piece(whole.matrix, first, min(first + height, whole.last))


@dataclass(frozen=True)
class RowStore:
    """One stored tensor by rows: ``n_rows`` rows of ``row_shape`` a matrix, each for ``block_rows`` rows of the weight.

    dtype: torch's. The entry's data is matrix after matrix, row after row.
    """

    entry: TensorEntry
    dtype: torch.dtype
    n_rows: int
    row_shape: tuple[int, ...]
    block_rows: int = 1

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize

    def read(self, read: ReadBytes, piece: Piece) -> torch.Tensor:
        """``(rows, *row_shape)``, in its own memory. Raises CheckpointError when the source gives too little."""
        begin, end = self.extent(piece)
        raw = read(self.entry.name, begin, end)
        if len(raw) != end - begin:
            raise CheckpointError(
                f"tensor {self.entry.name!r}: {len(raw)} bytes came of {end - begin} asked for; fetch the file again"
            )
        if not raw:
            return torch.empty((0, *self.row_shape), dtype=self.dtype)
        return torch.frombuffer(raw, dtype=torch.uint8).view(self.dtype).reshape(-1, *self.row_shape)

    def write(self, write: WriteBytes, piece: Piece, values: torch.Tensor) -> None:
        begin, end = self.extent(piece)
        data = values.contiguous().flatten().view(torch.uint8).numpy().data
        if len(data) != end - begin:
            raise AssertionError(f"{self.entry.name}: {len(data)} bytes for a place of {end - begin}")
        write(self.entry.name, begin, data)

    def extent(self, piece: Piece) -> tuple[int, int]:
        """First and last byte (exclusive) of a piece in the data of the stored tensor."""
        first = piece.matrix * self.n_rows + piece.first // self.block_rows
        last = piece.matrix * self.n_rows + -(-piece.last // self.block_rows)
        return first * self.row_bytes, last * self.row_bytes
