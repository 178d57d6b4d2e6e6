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
PART = 1 << 18
"""Numbers that are rounded together: what lies between the steps stays small, and in a processor's cache."""
CUT = 7.0
"""Up to here a number is no farther from the largest code than from those of coarser scales."""
_MAX_SCALE = 254  # 255 is NaN
_MAGNITUDES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_VALUES = torch.cat([_MAGNITUDES, -_MAGNITUDES])
_PAIRS = (
    torch.stack([_VALUES[torch.arange(256) & 15], _VALUES[torch.arange(256) >> 4]], dim=1).view(torch.int64).view(-1)
)
"""Byte -> its two values, the eight bytes of both read as one number."""
_POWERS = torch.ldexp(torch.ones(256, dtype=torch.float64), torch.arange(256) - BIAS)
_POWERS[255] = torch.nan
_FOUR = torch.tensor(4.0)
_FACTORS, _INVERSES = _POWERS.float(), _POWERS.reciprocal().float()


def decode_blocks(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return float32 ``(..., 32 n)`` for uint8 blocks ``(..., n, 16)``, scales ``(..., n)``. Scale 255 gives NaN."""
    values = _PAIRS.index_select(0, blocks.reshape(-1).int()).view(torch.float32).view(-1, BLOCK)
    values *= _FACTORS.index_select(0, scales.reshape(-1).int())[:, None]
    return values.reshape(*blocks.shape[:-2], -1)


def encode_blocks(values: torch.Tensor, stored_scales: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest blocks ``(..., n, 16)`` and scales ``(..., n)`` for finite float32 values ``(..., 32 n)``.

    Numbers round to the nearest E2M1, ties to even. Of the exponents that bring a block's largest number into [4, 8)
    and [2, 4) the one with the smaller squared error is taken; the stored one where it is no worse than both.
    """
    if values.ndim > 1 and len(values) > 1 and values.numel() > PART:
        step = max(1, PART * len(values) // values.numel())
        scales_of = [None] * -(-len(values) // step) if stored_scales is None else stored_scales.split(step)
        parts = [encode_blocks(*part) for part in zip(values.split(step), scales_of, strict=True)]
        return torch.cat([blocks for blocks, _ in parts]), torch.cat([scales for _, scales in parts])
    x = values.reshape(-1, BLOCK)
    peak = x.abs().amax(dim=1)
    exponent = torch.frexp(peak)[1] - 3  # peak / 2^exponent lies in [4, 8)
    nearest = (exponent + BIAS).clamp_(0, _MAX_SCALE).to(torch.uint8)
    scales = nearest.clone() if stored_scales is None else stored_scales.reshape(-1).clamp(max=_MAX_SCALE)
    numbers = scales.int()
    codes = _round(x * _INVERSES.index_select(0, numbers)[:, None])
    # A finer exponent may be better in every block. A coarser one has fewer numbers, all of them among those of the
    # finer one, which is worse only for what it cuts off by more than half a step of the coarser one: above 7.
    other = (peak > CUT * _FACTORS.index_select(0, numbers)).logical_or_(nearest < scales).nonzero().view(-1)
    if len(other):
        tried = torch.stack([scales[other], nearest[other], nearest[other].clamp_(max=_MAX_SCALE - 1) + 1])
        best_codes, best_scales = _best(x.index_select(0, other), tried)
        codes.index_copy_(0, other, best_codes)
        scales.index_copy_(0, other, best_scales)
    shape = (*values.shape[:-1], values.shape[-1] // BLOCK)
    return _pack(codes).reshape(*shape, BLOCK // 2), scales.reshape(shape)


def _best(x: torch.Tensor, tried: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of the least squared error, for blocks ``(n, 32)`` and the scales to try ``(3, n)``; of scales
    that are equally good the first."""
    numbers = tried.int().view(-1)
    scaled = x * _INVERSES.index_select(0, numbers).view(*tried.shape, 1)
    codes = _round(scaled)
    missed = scaled.abs_().sub_(_MAGNITUDES.index_select(0, (codes & 7).int().view(-1)).view(codes.shape))
    unit = _POWERS.index_select(0, numbers).square_().view(tried.shape)
    best = missed.square_().sum(dim=2).double().mul_(unit).argmin(dim=0)
    blocks = torch.arange(len(best))
    return codes[best, blocks], tried[best, blocks]


def _round(scaled: torch.Tensor) -> torch.Tensor:
    """The nearest codes, int8, of numbers divided by their scales: the low four bits count."""
    magnitude = scaled.abs()
    # steps of 1/2 up to 2, of 1 up to 4, of 2 up to 6: the coarsest step that applies counts fewest codes
    code = (magnitude * 2).round_()
    torch.minimum(code, magnitude.round().add_(2), out=code)
    torch.minimum(code, magnitude.mul_(0.5).round_().add_(4), out=code)
    code.clamp_(max=7).add_(torch.copysign(_FOUR, scaled)).sub_(4)  # less 8 where negative: -0.0 is -8, bits 1000
    return code.to(torch.int8)


def _pack(codes: torch.Tensor) -> torch.Tensor:
    """Bytes ``(blocks, 16)`` of codes ``(blocks, 32)``: two neighbours are read as one number, the first in its low
    byte, and the second is shifted down beside it."""
    pairs = codes.view(torch.int16) & 0x0F0F
    return pairs.bitwise_or_(pairs >> 4).to(torch.uint8)


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
