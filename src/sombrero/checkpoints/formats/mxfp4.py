"""MXFP4 (OCP Microscaling Formats v1.0): blocks of 32 four-bit floats (E2M1) that share one power of two (E8M0).

As gpt-oss stores it: ``NAME_blocks`` uint8 ``(experts, rows, n / 32, 16)``, the even element in a byte's low half, and
``NAME_scales`` uint8 ``(experts, rows, n / 32)``, exponent plus 127. Blocks run along the last axis, the input of the
expert's projection; a row is one output, so ``down_proj`` is ``(d, d_in)`` for each expert (transformers transposes it
after decoding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from sombrero.checkpoints.formats.codec import Piece, ReadBytes, RowStore, SliceEdit, Stored, WriteBytes
from sombrero.checkpoints.header import TensorEntry
from sombrero.errors import CheckpointError

BLOCK = 32
BIAS = 127
LARGEST = 6.0
_MAX_SCALE = 254  # 255 is NaN
_MAGNITUDES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_VALUES = torch.cat([_MAGNITUDES, -_MAGNITUDES])
_PAIRS = (
    torch.stack([_VALUES[torch.arange(256) & 15], _VALUES[torch.arange(256) >> 4]], dim=1).view(torch.int64).view(-1)
)
"""Byte -> its two values, the eight bytes of both read as one number."""
_POWERS = torch.ldexp(torch.ones(256, dtype=torch.float64), torch.arange(256) - BIAS)
_POWERS[255] = torch.nan
_FACTORS, _INVERSES = _POWERS.float(), _POWERS.reciprocal().float()


def decode_blocks(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return float32 ``(..., 32 n)`` for uint8 blocks ``(..., n, 16)``, scales ``(..., n)``. Scale 255 gives NaN."""
    values = _PAIRS.index_select(0, blocks.reshape(-1).int()).view(torch.float32).view(-1, BLOCK)
    values *= _pick(_FACTORS, scales.reshape(-1))[:, None]
    return values.reshape(*blocks.shape[:-2], -1)


def encode_blocks(values: torch.Tensor, stored_scales: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest blocks ``(..., n, 16)`` and scales ``(..., n)`` for finite float32 values ``(..., 32 n)``.

    Numbers round to the nearest E2M1, ties to even. Of the exponents that bring a block's largest number into [4, 8)
    and [2, 4) the one with the smaller squared error is taken; the stored one where it is no worse than both.
    """
    x = values.reshape(-1, BLOCK)
    peak = x.abs().amax(dim=1)
    exponent = torch.frexp(peak)[1] - 3  # peak / 2^exponent lies in [4, 8)
    nearest = (exponent + BIAS).clamp_(0, _MAX_SCALE).to(torch.uint8)
    scales = nearest.clone() if stored_scales is None else stored_scales.reshape(-1).clamp(max=_MAX_SCALE)
    codes, errors = _round(x, scales)
    for candidate in (nearest, nearest.clamp(max=_MAX_SCALE - 1) + 1):
        # No exponent is better than what it must cut off the largest number. A coarser one has fewer numbers, all of
        # them among those of the finer one, which is worse only where it cuts something off.
        excess = (peak - LARGEST * _pick(_FACTORS, candidate)).clamp_(min=0).double()
        cut = peak > LARGEST * _pick(_FACTORS, scales)
        rows = torch.nonzero(((candidate < scales) | ((candidate > scales) & cut)) & (excess.square() < errors)).view(
            -1
        )
        if len(rows):
            other, error = _round(x[rows], candidate[rows])
            better = error < errors[rows]
            chosen = rows[better]
            codes[chosen], errors[chosen], scales[chosen] = other[better], error[better], candidate[chosen]
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4)
    shape = (*values.shape[:-1], values.shape[-1] // BLOCK)
    return packed.reshape(*shape, BLOCK // 2), scales.reshape(shape)


def _round(x: torch.Tensor, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes uint8 ``(blocks, 32)`` at the given scales, and the squared error of each block, float64."""
    scaled = x * _pick(_INVERSES, scales)[:, None]
    magnitude = scaled.abs()
    # steps of 1/2 up to 2, of 1 up to 4, of 2 up to 6: the coarsest step that applies counts fewest codes
    code = (magnitude * 2).round_()
    torch.minimum(code, magnitude.round().add_(2), out=code)
    torch.minimum(code, (magnitude * 0.5).round_().add_(4), out=code)
    number = code.clamp_(max=7).to(torch.int32)
    magnitude -= _MAGNITUDES.index_select(0, number.view(-1)).view(number.shape)
    errors = magnitude.square_().sum(dim=1).double() * _pick(_POWERS, scales).square()
    return number.to(torch.uint8) | (torch.signbit(scaled).view(torch.uint8) << 3), errors


def _pick(table: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return table.index_select(0, scales.int())


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
    def stores(self) -> tuple[RowStore, RowStore]:
        """The stored tensors by rows, in the order of :attr:`tensors`."""
        return (
            RowStore(self.blocks, torch.uint8, self.n_rows, self.blocks.shape[-2:]),
            RowStore(self.scales, torch.uint8, self.n_rows, self.scales.shape[-1:]),
        )

    def read(self, read: ReadBytes, piece: Piece) -> Stored:
        return tuple(store.read(read, piece) for store in self.stores)

    def decode(self, stored: Stored) -> torch.Tensor:
        return decode_blocks(*stored)

    def encode(self, values: torch.Tensor, stored: Stored) -> Stored:
        return encode_blocks(values, stored[1])

    def write(self, write: WriteBytes, piece: Piece, stored: Stored) -> None:
        for store, tensor in zip(self.stores, stored, strict=True):
            store.write(write, piece, tensor)
