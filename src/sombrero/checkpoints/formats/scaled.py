"""Eight-bit weights with scales: number = code times the scale of its block.

One codec serves three families: block-scaled FP8 as DeepSeek and Qwen publish it (``weight_scale_inv``, blocks of 128
by 128; transformers' finegrained_fp8), and FP8 or INT8 of compressed-tensors (``weight_scale``, for each row, each
group of a row, or the whole tensor). They differ in the shape of a block alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sombrero.checkpoints.formats.codec import Piece, ReadBytes, RowStore, SliceEdit, Stored, WriteBytes, pieces
from sombrero.checkpoints.header import TensorEntry
from sombrero.errors import CheckpointError

CODES: dict[str, torch.dtype] = {"F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8}
FP8_LARGEST = 448.0
SCALES: dict[str, torch.dtype] = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U8": torch.uint8,  # E8M0 under another name
}

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def decode_scales(scales: torch.Tensor) -> torch.Tensor:
    """The factors, float32, of stored scales; bytes are exponents plus 127."""
    if scales.dtype == torch.uint8:
        scales = scales.view(torch.float8_e8m0fnu)
    return scales.to(torch.float32)


def encode_scales(factors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The smallest scales of ``dtype`` that are not below ``factors`` (positive float32): nothing is cut off."""
    if dtype in (torch.uint8, torch.float8_e8m0fnu):
        mantissa, exponent = torch.frexp(factors)
        exponent = exponent - (mantissa == 0.5).to(exponent.dtype)
        return (exponent + 127).clamp(0, 254).to(torch.uint8).view(dtype)
    scales = factors.to(dtype)
    bits = scales.view(_BITS[dtype.itemsize])  # of positive floats the next larger one has the next larger bits
    return torch.where(scales.to(torch.float32) < factors, bits + 1, bits).view(dtype)


def spread(factors: torch.Tensor, block: tuple[int, int], shape: tuple[int, int]) -> torch.Tensor:
    """Factors ``(row blocks, column blocks)`` for every number of a matrix of ``shape``; the last blocks may be cut."""
    rows, columns = block
    return factors.repeat_interleave(rows, dim=0)[: shape[0]].repeat_interleave(columns, dim=1)[:, : shape[1]]


def block_peaks(values: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """Largest magnitude in each block ``(row blocks, column blocks)``."""
    rows, columns = (-values.shape[0] % block[0], -values.shape[1] % block[1])
    padded = torch.nn.functional.pad(values.abs(), (0, columns, 0, rows))
    peaks: torch.Tensor = padded.unflatten(0, (-1, block[0])).unflatten(2, (-1, block[1])).amax(dim=(1, 3))
    return peaks


def needed_factors(values: torch.Tensor, block: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """The smallest factor of each block at which the codes of ``dtype`` reach all of its numbers."""
    if dtype == torch.int8:
        above, below = block_peaks(values.clamp(min=0), block), block_peaks(values.clamp(max=0), block)
        return torch.maximum(above / 127, below / 128)
    return block_peaks(values, block) / FP8_LARGEST


def quantize(values: torch.Tensor, factors: torch.Tensor, block: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """The nearest codes of ``dtype`` at given factors; ties to even, larger numbers to the largest code."""
    scaled = values / spread(factors, block, (values.shape[0], values.shape[1]))
    if dtype == torch.int8:
        return scaled.round_().clamp_(-128, 127).to(torch.int8)
    return scaled.clamp_(-FP8_LARGEST, FP8_LARGEST).to(dtype)


@dataclass(frozen=True)
class ScaledCodec:
    """A weight of eight-bit codes and the scales of its blocks.

    block: rows and columns that share a scale; a block of all rows is the whole matrix or tensor. by_rows, new: set by
    :meth:`settled`. Raises CheckpointError when the two tensors do not fit.
    """

    weight: TensorEntry
    scale: TensorEntry
    block: tuple[int, int]
    by_rows: bool = False
    new: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight.dtype not in CODES or self.scale.dtype not in SCALES or len(self.weight.shape) not in (2, 3):
            raise CheckpointError(
                f"{self.weight.name!r} {self.weight.dtype} {self.weight.shape} with the scales {self.scale.name!r} "
                f"{self.scale.dtype} is no eight-bit weight that can be edited; bake from the checkpoint before "
                "quantization"
            )
        expected = self.n_matrices * self._grid[0] * self._grid[1]
        found = 1
        for size in self.scale.shape:
            found *= size
        shared = found == 1 and self._grid == (1, 1) and self.n_matrices > 1
        if found != expected or shared:
            raise CheckpointError(
                f"{self.scale.name!r} has shape {self.scale.shape}; {self.weight.name!r} {self.weight.shape} in blocks "
                f"of {self.block} needs {self._grid} scales for each matrix: check quantization_config in config.json"
            )

    @property
    def _grid(self) -> tuple[int, int]:
        return -(-self.n_rows // self.block[0]), -(-self.n_columns // self.block[1])

    @property
    def format(self) -> str:
        kind = "INT8" if self.weight.dtype == "I8" else "FP8"
        return f"{kind} in blocks of {self.block[0]}x{self.block[1]}"

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        return (self.weight, self.scale)

    @property
    def n_matrices(self) -> int:
        return self.weight.shape[0] if len(self.weight.shape) == 3 else 1

    @property
    def n_rows(self) -> int:
        return self.weight.shape[-2]

    @property
    def n_columns(self) -> int:
        return self.weight.shape[-1]

    @property
    def row_step(self) -> int:
        return 1 if self.by_rows else self.block[0]

    @property
    def stores(self) -> tuple[RowStore, RowStore]:
        """The stored tensors by rows, in the order of :attr:`tensors`."""
        return (
            RowStore(self.weight, CODES[self.weight.dtype], self.n_rows, (self.n_columns,)),
            RowStore(self.scale, SCALES[self.scale.dtype], self._grid[0], (self._grid[1],), self.block[0]),
        )

    def read(self, read: ReadBytes, piece: Piece) -> Stored:
        return tuple(store.read(read, piece) for store in self.stores)

    def decode(self, stored: Stored) -> torch.Tensor:
        codes, scales = stored
        shape = (codes.shape[0], codes.shape[1])
        return codes.to(torch.float32).mul_(spread(decode_scales(scales), self.block, shape))

    def encode(self, values: torch.Tensor, stored: Stored) -> Stored:
        """The stored scale of a block stays where the edited block fits in: what the edit misses stays as it is."""
        codes, scales = stored
        scales = self._fitted(needed_factors(values, self.block, codes.dtype), scales) if self.new is None else self.new
        return quantize(values, decode_scales(scales), self.block, codes.dtype), scales

    def write(self, write: WriteBytes, piece: Piece, stored: Stored) -> None:
        weight, scale = self.stores
        weight.write(write, piece, stored[0])
        if piece.first % self.block[0] == 0:
            scale.write(write, piece, stored[1])

    def settled(self, read: ReadBytes, edit: SliceEdit, max_elements: int) -> ScaledCodec:
        """This codec; of a matrix with one tall block, which does not fit into memory, with its new scales decided."""
        if self.n_matrices > 1 or self.block[0] < self.n_rows or self.n_rows * self.n_columns <= max_elements:
            return self
        low = replace(self, by_rows=True)
        needed: torch.Tensor | None = None
        for piece in pieces(low, max_elements):
            stored = low.read(read, piece)
            found = needed_factors(edit(low.decode(stored), piece), self.block, stored[0].dtype)
            needed = found if needed is None else torch.maximum(needed, found)
        if needed is None:
            return self
        return replace(low, new=self._fitted(needed, stored[1]))

    @property
    def keeps_bytes(self) -> bool:
        """Whether rows that an edit does not change may keep their codes: not where a shared scale may change."""
        return self.new is None

    @staticmethod
    def _fitted(needed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Stored scales, with larger ones where the blocks need it."""
        fits = needed <= decode_scales(scales) * (1 + 1e-6)
        if bool(fits.all()):
            return scales
        fitted = encode_scales(torch.where(needed > 0, needed, torch.ones_like(needed)), scales.dtype)
        kind = _BITS[scales.dtype.itemsize]
        return torch.where(fits, scales.view(kind), fitted.view(kind)).view(scales.dtype)
