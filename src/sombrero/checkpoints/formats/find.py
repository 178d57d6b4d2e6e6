"""Which codec a stored weight needs, from the names, dtypes and shapes of its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sombrero.checkpoints.formats.codec import Codec
from sombrero.checkpoints.formats.dense import DENSE, DenseCodec
from sombrero.checkpoints.formats.mxfp4 import Mxfp4Codec
from sombrero.checkpoints.formats.scaled import CODES, ScaledCodec
from sombrero.checkpoints.header import TensorEntry
from sombrero.errors import CheckpointError

_SCALE_SUFFIXES = ("_scale_inv", "_scale")
_OTHER_FORMATS = ("_packed", "_zero_point", "_g_idx", ".absmax", "_scale_2")


def find_codec(tensors: Mapping[str, TensorEntry], weight_name: str, block: tuple[int, int] | None = None) -> Codec:
    """The codec of the weight that the architecture calls ``weight_name``.

    block: rows and columns of a scale block, where the checkpoint's configuration says it; otherwise they follow from
    the shapes. Raises CheckpointError when the weight is not there or its format is not one that can be edited.
    """
    blocks, scales = tensors.get(f"{weight_name}_blocks"), tensors.get(f"{weight_name}_scales")
    if blocks is not None and scales is not None:
        return Mxfp4Codec(blocks, scales)
    found = [weight_name + suffix for suffix in _OTHER_FORMATS if weight_name + suffix in tensors]
    weight = tensors.get(weight_name)
    if found or weight is None:
        raise CheckpointError(
            f"the weight {weight_name!r} is {f'stored with {found}' if found else 'not in the checkpoint'}; "
            f"{', '.join(DENSE)}, MXFP4, FP8 and symmetric INT8 with scales can be edited: bake from another checkpoint"
        )
    if weight.dtype not in CODES:
        return DenseCodec(weight)
    scale = next((tensors[weight_name + s] for s in _SCALE_SUFFIXES if weight_name + s in tensors), None)
    if scale is None:
        raise CheckpointError(
            f"tensor {weight_name!r} is stored as {weight.dtype} without scales; bake from the checkpoint before "
            "quantization"
        )
    return ScaledCodec(weight, scale, _block(weight, scale, block))


def block_shape(folder: Path) -> tuple[int, int] | None:
    """``weight_block_size`` of the checkpoint's quantization_config; None where it has none."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}; fetch it again") from error
    settings = config.get("quantization_config") if isinstance(config, dict) else None
    size = settings.get("weight_block_size") if isinstance(settings, dict) else None
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise CheckpointError(f"{path}: weight_block_size must be two positive numbers, found {size!r}")
    return size[0], size[1]


def _block(weight: TensorEntry, scale: TensorEntry, block: tuple[int, int] | None) -> tuple[int, int]:
    rows, columns = weight.shape[-2:] if len(weight.shape) > 1 else (1, *weight.shape)
    if len(scale.shape) < 2:  # one for the tensor, or one a row
        return (1, columns) if scale.shape == (rows,) and rows > 1 else (rows, columns)
    grid = scale.shape[-2:]
    if block is not None and grid == (-(-rows // block[0]), -(-columns // block[1])):
        return block
    if 0 in grid or rows % grid[0] or columns % grid[1]:
        raise CheckpointError(
            f"{scale.name!r} has {grid} scales for {weight.name!r} {weight.shape}, which is no whole number of blocks; "
            "config.json must say weight_block_size in quantization_config"
        )
    return rows // grid[0], columns // grid[1]
