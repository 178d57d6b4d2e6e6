"""How far a stored number may lie from the number that was meant: half the gap between neighbours of its format."""

from __future__ import annotations

import torch

from sombrero.checkpoints.formats import Codec, DenseCodec, Mxfp4Codec, ScaledCodec, TransposedCodec
from sombrero.checkpoints.formats.codec import Stored
from sombrero.checkpoints.formats.mxfp4 import BLOCK
from sombrero.checkpoints.formats.scaled import decode_scales, spread


def half_gap(codec: Codec, stored: Stored, values: torch.Tensor) -> torch.Tensor:
    """Largest rounding error, float64 of the shape of ``values`` (decoded rows), of numbers near ``values``.

    stored: the rows as they are stored, whose scales count. For MXFP4 it allows for what is cut off at the largest
    code, up to a third above it.
    """
    magnitude = values.double().abs()
    if isinstance(codec, DenseCodec | TransposedCodec):
        info = torch.finfo(stored[0].dtype)
        return (magnitude * (info.eps / 2)).clamp_(min=info.smallest_normal * info.eps / 2)
    if isinstance(codec, Mxfp4Codec):
        scale = decode_scales(stored[1]).double().repeat_interleave(BLOCK, dim=-1)
        x = magnitude / scale
        steps = 0.25 + 0.25 * (x > 2).double() + 0.5 * (x > 4).double() + (x > 5).double()
        return steps * scale
    assert isinstance(codec, ScaledCodec)
    scale = spread(decode_scales(stored[1]), codec.block, (values.shape[0], values.shape[1])).double()
    if codec.weight.dtype == "I8":
        return scale * 0.5
    return (magnitude * 2.0**-4).clamp_(min=0).maximum(scale * 2.0**-10)
