"""Weights in quantized formats, made here, held in memory, and edited there."""

from __future__ import annotations

import math

import torch

from sombrero.checkpoints.header import TensorEntry

NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
}


class Memory:
    """Stored tensors by name; what a codec reads from and writes to."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.data = {name: bytearray(raw_bytes(tensor)) for name, tensor in tensors.items()}
        self.forms = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        self.entries = {
            name: TensorEntry(name, "f", NAMES[tensor.dtype], tuple(tensor.shape), 0, len(self.data[name]))
            for name, tensor in tensors.items()
        }
        self.largest_read = 0

    def read(self, name: str, begin: int, end: int) -> bytearray:
        self.largest_read = max(self.largest_read, end - begin)
        return self.data[name][begin:end]

    def write(self, name: str, begin: int, data: memoryview) -> None:
        assert begin + len(data) <= len(self.data[name])
        self.data[name][begin : begin + len(data)] = data

    def tensor(self, name: str) -> torch.Tensor:
        dtype, shape = self.forms[name]
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(bytearray(self.data[name]), dtype=torch.uint8).view(dtype).reshape(shape)


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def mxfp4(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """``w_blocks`` and ``w_scales`` of a weight ``(..., columns)``."""
    from sombrero.checkpoints.formats.mxfp4 import encode_blocks

    blocks, scales = encode_blocks(weight.float())
    return {"w_blocks": blocks, "w_scales": scales}


def scaled(
    weight: torch.Tensor,
    block: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float8_e4m3fn,
    scale_dtype: torch.dtype = torch.float32,
    suffix: str = "_scale_inv",
) -> dict[str, torch.Tensor]:
    """``w`` and ``w_scale_inv`` (or another suffix) of a matrix in blocks."""
    from sombrero.checkpoints.formats.scaled import decode_scales, encode_scales, needed_factors, quantize

    factors = needed_factors(weight, block, dtype)
    scales = encode_scales(torch.where(factors > 0, factors, torch.ones_like(factors)), scale_dtype)
    return {"w": quantize(weight, decode_scales(scales), block, dtype), f"w{suffix}": scales}
