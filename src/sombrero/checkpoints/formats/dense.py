"""Weights of dense floats, as bytes and as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

from sombrero.checkpoints.formats.codec import Piece, ReadBytes, RowStore, SliceEdit, Stored, WriteBytes
from sombrero.checkpoints.header import TensorEntry
from sombrero.errors import CheckpointError

DENSE: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def check_editable(entry: TensorEntry) -> None:
    """Raise CheckpointError unless the tensor is stored as dense floats."""
    if entry.dtype not in DENSE:
        raise CheckpointError(
            f"tensor {entry.name!r} is stored as {entry.dtype}, and only {', '.join(DENSE)} can be edited; "
            "bake from the checkpoint before quantization"
        )


def decode(raw: bytearray, entry: TensorEntry) -> torch.Tensor:
    """Return the tensor of ``entry``, of its shape and dtype, that shares the memory of its bytes ``raw``."""
    check_editable(entry)
    if not raw:
        return torch.empty(entry.shape, dtype=DENSE[entry.dtype])
    return torch.frombuffer(raw, dtype=DENSE[entry.dtype]).reshape(entry.shape)


def encode(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a dense CPU tensor in row-major order."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


@dataclass(frozen=True)
class DenseCodec:
    """A weight of dense floats: ``(rows, columns)``, or ``(experts, rows, columns)`` where experts are fused."""

    entry: TensorEntry

    def __post_init__(self) -> None:
        check_editable(self.entry)
        if len(self.entry.shape) not in (2, 3):
            raise CheckpointError(
                f"tensor {self.entry.name!r} has shape {self.entry.shape}; a weight has two axes, or three for experts"
            )

    @property
    def format(self) -> str:
        return self.entry.dtype

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        return (self.entry,)

    @property
    def n_matrices(self) -> int:
        return self.entry.shape[0] if len(self.entry.shape) == 3 else 1

    @property
    def n_rows(self) -> int:
        return self.entry.shape[-2]

    @property
    def n_columns(self) -> int:
        return self.entry.shape[-1]

    @property
    def row_step(self) -> int:
        return 1

    @property
    def keeps_bytes(self) -> bool:
        return True

    def settled(self, read: ReadBytes, edit: SliceEdit, max_elements: int) -> Self:
        return self

    @property
    def _rows(self) -> RowStore:
        return RowStore(self.entry, DENSE[self.entry.dtype], self.n_rows, (self.n_columns,))

    def read(self, read: ReadBytes, piece: Piece) -> Stored:
        return (self._rows.read(read, piece),)

    def decode(self, stored: Stored) -> torch.Tensor:
        return stored[0].to(torch.promote_types(stored[0].dtype, torch.float32), copy=True)

    def encode(self, values: torch.Tensor, stored: Stored) -> Stored:
        return (values.to(DENSE[self.entry.dtype]),)

    def write(self, write: WriteBytes, piece: Piece, stored: Stored) -> None:
        self._rows.write(write, piece, stored[0])
