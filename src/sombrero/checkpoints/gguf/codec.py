"""Weights in the types of GGUF, by rows, through the ``gguf`` package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from sombrero.checkpoints.formats import Piece, ReadBytes, RowStore, SliceEdit, WriteBytes
from sombrero.checkpoints.formats.codec import Stored
from sombrero.checkpoints.header import TensorEntry
from sombrero.errors import CheckpointError

Kind = GGMLQuantizationType
TARGETS = (Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.F16, Kind.BF16, Kind.F32)
"""Types that the package can write and that any weight may be stored in, by rising size."""


def bits(kind: GGMLQuantizationType) -> float:
    """Bits for each number."""
    block, size = GGML_QUANT_SIZES[kind]
    return 8 * size / block


def target_kind(kind: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    """The type to store an edited weight in: its own where the package can write it, else the next larger of TARGETS.

    K-quants and others can be read alone; at an equal number of bits they are finer than those that can be written.
    """
    if kind in TARGETS or kind == Kind.MXFP4:
        return kind
    larger = (t for t in TARGETS if bits(t) > bits(kind) and columns % GGML_QUANT_SIZES[t][0] == 0)
    return next(larger, Kind.F32)


@dataclass(frozen=True)
class GgufCodec:
    """One weight ``(rows, columns)``, or ``(experts, rows, columns)``; entry.dtype is the name of its type.

    Raises CheckpointError for a type that the package cannot read.
    """

    entry: TensorEntry

    def __post_init__(self) -> None:
        try:
            dequantize(np.zeros((1, self._row_bytes), np.uint8), self.kind)
        except (NotImplementedError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"tensor {self.entry.name!r} is stored as {self.entry.dtype}, {self.entry.shape}, which the gguf "
                f"package cannot read ({error}); bake from another quantization"
            ) from error

    @property
    def kind(self) -> GGMLQuantizationType:
        return GGMLQuantizationType[self.entry.dtype]

    @property
    def format(self) -> str:
        return f"GGUF {self.entry.dtype}"

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
    def _row_bytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.kind]
        return self.n_columns // block * size

    @property
    def _rows(self) -> RowStore:
        return RowStore(self.entry, torch.uint8, self.n_rows, (self._row_bytes,))

    def read(self, read: ReadBytes, piece: Piece) -> Stored:
        return (self._rows.read(read, piece),)

    def decode(self, stored: Stored) -> torch.Tensor:
        values = dequantize(stored[0].numpy(), self.kind).astype(np.float32)
        return torch.from_numpy(values.reshape(-1, self.n_columns).copy())

    def encode(self, values: torch.Tensor, stored: Stored) -> Stored:
        coded = quantize(np.ascontiguousarray(values.numpy()), self.kind)
        return (torch.from_numpy(coded.view(np.uint8).reshape(len(values), -1).copy()),)

    def write(self, write: WriteBytes, piece: Piece, stored: Stored) -> None:
        self._rows.write(write, piece, stored[0])
