"""An edited weight kept in bfloat16 beside the quantized rest, where the loader permits that a module is left out.

transformers reads the list of modules that are not quantized from config.json: ``modules_to_not_convert`` (MXFP4, FP8)
or ``ignore`` (compressed-tensors). Of a module that is on the list every weight is dense: of gpt-oss's experts both
projections. Its fused experts are then stored as the class holds them, ``(experts, inputs, outputs)``, which is the
transposed of what the MXFP4 blocks decode to.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from sombrero.checkpoints.formats.codec import Piece, ReadBytes, SliceEdit, Stored, WriteBytes
from sombrero.checkpoints.formats.dense import DenseCodec
from sombrero.checkpoints.formats.find import find_codec
from sombrero.checkpoints.formats.mxfp4 import Mxfp4Codec
from sombrero.checkpoints.formats.scaled import ScaledCodec
from sombrero.checkpoints.header import TensorEntry
from sombrero.errors import CheckpointError

STORED = "BF16"
_LISTS: Mapping[str, str] = {
    "mxfp4": "modules_to_not_convert",
    "fp8": "modules_to_not_convert",
    "compressed-tensors": "ignore",
}


@dataclass(frozen=True)
class TransposedCodec:
    """Fused experts ``(experts, inputs, outputs)`` of dense floats, seen as rows of outputs; one expert is a piece."""

    entry: TensorEntry

    @property
    def format(self) -> str:
        return self.entry.dtype

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        return (self.entry,)

    @property
    def n_matrices(self) -> int:
        return self.entry.shape[0]

    @property
    def n_rows(self) -> int:
        return self.entry.shape[2]

    @property
    def n_columns(self) -> int:
        return self.entry.shape[1]

    @property
    def row_step(self) -> int:
        return self.n_rows

    @property
    def keeps_bytes(self) -> bool:
        return True

    def settled(self, read: ReadBytes, edit: SliceEdit, max_elements: int) -> Self:
        return self

    @property
    def _dense(self) -> DenseCodec:
        return DenseCodec(self.entry)

    def read(self, read: ReadBytes, piece: Piece) -> Stored:
        return self._dense.read(read, Piece(piece.matrix, 0, self.n_columns))

    def decode(self, stored: Stored) -> torch.Tensor:
        return self._dense.decode(stored).T.contiguous()

    def encode(self, values: torch.Tensor, stored: Stored) -> Stored:
        return self._dense.encode(values.T, stored)

    def write(self, write: WriteBytes, piece: Piece, stored: Stored) -> None:
        self._dense.write(write, Piece(piece.matrix, 0, self.n_columns), stored)


@dataclass(frozen=True)
class DenseForm:
    """What takes the place of a quantized weight: ``into`` says its tensor (name, dtype, shape; begin 0).

    replaced: names of the stored tensors that go. module: what the configuration must leave out.
    """

    weight_name: str
    codec: Mxfp4Codec | ScaledCodec
    into: DenseCodec | TransposedCodec
    replaced: tuple[str, ...]
    module: str


def dense_forms(
    tensors: Mapping[str, TensorEntry], weight_name: str, block: tuple[int, int] | None = None
) -> tuple[DenseForm, ...]:
    """The dense forms of a quantized weight and of all others that its module holds; none where it is dense already."""
    codec = find_codec(tensors, weight_name, block)
    if isinstance(codec, ScaledCodec):
        shape, module = codec.weight.shape, weight_name.rpartition(".")[0]
        names = (codec.weight.name, codec.scale.name)
        return (DenseForm(weight_name, codec, DenseCodec(_entry(weight_name, shape)), names, module),)
    if not isinstance(codec, Mxfp4Codec):
        return ()
    module = weight_name.rpartition(".")[0]
    weights = sorted(
        name.removesuffix("_blocks")
        for name in tensors
        if name.endswith("_blocks") and name.rpartition(".")[0] == module
    )
    forms = []
    for name in weights:
        found = find_codec(tensors, name)
        assert isinstance(found, Mxfp4Codec)
        shape = (found.n_matrices, found.n_columns, found.n_rows)
        replaced = tuple(entry.name for entry in found.tensors)
        forms.append(DenseForm(name, found, TransposedCodec(_entry(name, shape)), replaced, module))
    return tuple(forms)


def leave_out(config: Mapping[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """The content of config.json with ``modules`` left out of the quantization.

    Raises CheckpointError when it has no quantization_config, or of a method whose loader has no such list.
    """
    changed = copy.deepcopy(dict(config))
    settings, method = changed.get("quantization_config"), quantization_method(config)
    if not isinstance(settings, dict) or method is None or method not in _LISTS:
        raise CheckpointError(
            f"config.json has the quantization method {method!r}; edited weights can stay in {STORED} beside "
            f"{', '.join(_LISTS)} alone: requantize them, or bake from the checkpoint before quantization"
        )
    key = _LISTS[method]
    known = settings.get(key) or []
    settings[key] = [*known, *(module for module in dict.fromkeys(modules) if module not in known)]
    return changed


def quantization_method(config: Mapping[str, Any]) -> str | None:
    """``quant_method`` of config.json; None where it names none."""
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return method if isinstance(method, str) else None


def permits_dense(config: Mapping[str, Any]) -> bool:
    """Whether the loader of this quantization has a list of modules that it leaves out."""
    return quantization_method(config) in _LISTS


def _entry(name: str, shape: tuple[int, ...]) -> TensorEntry:
    n_bytes = torch.Size(shape).numel() * torch.bfloat16.itemsize
    return TensorEntry(name, "", STORED, shape, 0, n_bytes)
