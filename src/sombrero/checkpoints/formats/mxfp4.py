"""MXFP4 (OCP Microscaling Formats v1.0): blocks of 32 four-bit floats (E2M1) that share one power of two (E8M0).

As gpt-oss stores it: ``NAME_blocks`` uint8 ``(experts, rows, n / 32, 16)``, the even element in a byte's low half, and
``NAME_scales`` uint8 ``(experts, rows, n / 32)``, exponent plus 127. Blocks run along the last axis, the input of the
expert's projection; a row is one output, so ``down_proj`` is ``(d, d_in)`` for each expert (transformers transposes it
after decoding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from sombrero.checkpoints.formats.codec import Piece, ReadBytes, RowStore, SliceEdit, Stored, WriteBytes
from sombrero.checkpoints.header import TensorEntry
from sombrero.errors import CheckpointError

BLOCK = 32
BIAS = 127
LARGEST = 6.0
_MAX_SCALE = 254  # 255 is NaN
_MAGNITUDES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=np.float32)
_VALUES = np.concatenate([_MAGNITUDES, -_MAGNITUDES])
_PAIRS = np.stack([_VALUES[np.arange(256) & 15], _VALUES[np.arange(256) >> 4]], axis=1).view(np.int64).ravel()
"""Byte -> its two values, the eight bytes of both read as one number."""
with np.errstate(over="ignore"):
    _POWERS = np.ldexp(np.float64(1), np.arange(256) - BIAS)
_POWERS[255] = np.nan

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def decode_blocks(blocks: Bytes, scales: Bytes) -> Floats:
    """Return float32 ``(..., 32 n)`` for blocks ``(..., n, 16)`` and scales ``(..., n)``. Scale 255 gives NaN."""
    values: Floats = np.take(_PAIRS, blocks, mode="clip").view(np.float32)
    values *= _POWERS.astype(np.float32)[scales][..., None]
    return values.reshape(*blocks.shape[:-2], -1)


def encode_blocks(values: Floats, stored_scales: Bytes | None = None) -> tuple[Bytes, Bytes]:
    """Return the nearest blocks ``(..., n, 16)`` and scales ``(..., n)`` for finite float32 values ``(..., 32 n)``.

    Numbers round to the nearest E2M1, ties to even. Of the exponents that bring a block's largest number into [4, 8)
    and [2, 4) the one with the smaller squared error is taken; the stored one where it is no worse than both.
    """
    x = values.reshape(-1, BLOCK)
    peak = np.abs(x).max(axis=1)
    exponent = np.frexp(peak)[1].astype(np.int64) - 3  # peak / 2^exponent lies in [4, 8)
    nearest = np.clip(exponent + BIAS, 0, _MAX_SCALE).astype(np.uint8)
    scales = nearest.copy() if stored_scales is None else np.minimum(stored_scales.reshape(-1), _MAX_SCALE)
    codes, errors = _round(x, scales)
    for candidate in (nearest, np.minimum(nearest, _MAX_SCALE - 1) + np.uint8(1)):
        # no exponent is better than what it must cut off the largest number; and none beats an error of zero
        excess = np.maximum(peak.astype(np.float64) - LARGEST * _POWERS[candidate], 0.0)
        rows = np.flatnonzero((candidate != scales) & (excess * excess < errors))
        if rows.size:
            other, error = _round(x[rows], candidate[rows])
            better = error < errors[rows]
            chosen = rows[better]
            codes[chosen], errors[chosen], scales[chosen] = other[better], error[better], candidate[chosen]
    packed: Bytes = codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    shape = (*values.shape[:-1], values.shape[-1] // BLOCK)
    return packed.reshape(*shape, BLOCK // 2), scales.reshape(shape)


def _round(x: Floats, scales: Bytes) -> tuple[Bytes, npt.NDArray[np.float64]]:
    """Codes ``(blocks, 32)`` at the given scales, and the squared error of each block."""
    with np.errstate(over="ignore", under="ignore"):
        scaled = x * (1.0 / _POWERS[scales]).astype(np.float32)[:, None]
        magnitude = np.abs(scaled)
        # steps of 1/2 up to 2, of 1 up to 4, of 2 up to 6: the coarsest step that applies counts fewest codes
        code = np.rint(magnitude * np.float32(2))
        np.minimum(code, np.rint(magnitude) + np.float32(2), out=code)
        np.minimum(code, np.rint(magnitude * np.float32(0.5)) + np.float32(4), out=code)
        np.minimum(code, np.float32(7), out=code)
        codes: Bytes = code.astype(np.uint8)
        magnitude -= np.take(_MAGNITUDES, codes, mode="clip")
        errors = np.einsum("ij,ij->i", magnitude, magnitude).astype(np.float64) * _POWERS[scales] ** 2
    codes |= np.signbit(scaled).view(np.uint8) << np.uint8(3)
    return codes, errors


@dataclass(frozen=True)
class Mxfp4Codec:
    """A weight stored as ``NAME_blocks`` and ``NAME_scales``. Raises CheckpointError when the two do not fit."""

    blocks: TensorEntry
    scales: TensorEntry

    def __post_init__(self) -> None:
        shape = self.blocks.shape
        fits = len(shape) in (3, 4) and shape[-1] == BLOCK // 2 and self.scales.shape == shape[:-1]
        if not fits or self.blocks.dtype != "U8" or self.scales.dtype not in ("U8", "F8_E8M0"):
            raise CheckpointError(
                f"{self.blocks.name!r} {self.blocks.dtype} {shape} and {self.scales.name!r} {self.scales.dtype} "
                f"{self.scales.shape} are not MXFP4 blocks (..., n, 16) and scales (..., n); fetch the checkpoint again"
            )

    @property
    def format(self) -> str:
        return "MXFP4"

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        return (self.blocks, self.scales)

    @property
    def n_matrices(self) -> int:
        return self.blocks.shape[0] if len(self.blocks.shape) == 4 else 1

    @property
    def n_rows(self) -> int:
        return self.blocks.shape[-3]

    @property
    def n_columns(self) -> int:
        return self.blocks.shape[-2] * BLOCK

    @property
    def row_step(self) -> int:
        return 1

    @property
    def keeps_bytes(self) -> bool:
        return True

    def settled(self, read: ReadBytes, edit: SliceEdit, max_elements: int) -> Self:
        return self

    @property
    def _stores(self) -> tuple[RowStore, RowStore]:
        return (
            RowStore(self.blocks, torch.uint8, self.n_rows, self.blocks.shape[-2:]),
            RowStore(self.scales, torch.uint8, self.n_rows, self.scales.shape[-1:]),
        )

    def read(self, read: ReadBytes, piece: Piece) -> Stored:
        return tuple(store.read(read, piece) for store in self._stores)

    def decode(self, stored: Stored) -> torch.Tensor:
        return torch.from_numpy(decode_blocks(stored[0].numpy(), stored[1].numpy()))

    def encode(self, values: torch.Tensor, stored: Stored) -> Stored:
        blocks, scales = encode_blocks(values.numpy(), stored[1].numpy())
        return torch.from_numpy(blocks), torch.from_numpy(scales)

    def write(self, write: WriteBytes, piece: Piece, stored: Stored) -> None:
        for store, tensor in zip(self._stores, stored, strict=True):
            store.write(write, piece, tensor)
