"""How the stored bytes of a weight become numbers that can be edited, and go back: one codec for each format."""

from sombrero.checkpoints.formats.codec import (
    Codec,
    Piece,
    ReadBytes,
    RowStore,
    SliceEdit,
    Stored,
    WriteBytes,
    pieces,
    rows_of,
)
from sombrero.checkpoints.formats.dense import DENSE, DenseCodec, check_editable, decode, encode
from sombrero.checkpoints.formats.find import block_shape, find_codec
from sombrero.checkpoints.formats.mxfp4 import Mxfp4Codec
from sombrero.checkpoints.formats.requantize import (
    MIN_SURVIVED,
    Requantization,
    edit_piece,
    edit_slices,
    low_rank_slices,
    reads_of_output,
    reads_of_outputs,
    require_survival,
)
from sombrero.checkpoints.formats.scaled import ScaledCodec
from sombrero.checkpoints.formats.unquantized import (
    DenseForm,
    TransposedCodec,
    dense_forms,
    leave_out,
    permits_dense,
)

__all__ = [
    "DENSE",
    "MIN_SURVIVED",
    "Codec",
    "DenseCodec",
    "DenseForm",
    "Mxfp4Codec",
    "Piece",
    "ReadBytes",
    "Requantization",
    "RowStore",
    "ScaledCodec",
    "SliceEdit",
    "Stored",
    "TransposedCodec",
    "WriteBytes",
    "block_shape",
    "check_editable",
    "decode",
    "dense_forms",
    "edit_piece",
    "edit_slices",
    "encode",
    "find_codec",
    "leave_out",
    "low_rank_slices",
    "permits_dense",
    "pieces",
    "reads_of_output",
    "reads_of_outputs",
    "require_survival",
    "rows_of",
]
