"""How the stored bytes of a tensor become a matrix that can be edited, and go back.

Dense floats alone for now. A block format (MXFP4, FP8 with scales, GGUF) has its place here: ``decode`` and ``encode``
are the only functions between the bytes of a file and an edit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

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
