"""Random access to the stored tensors of a checkpoint, and the weights that its tensors store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

from sombrero.checkpoints.formats import DENSE, Codec, find_codec
from sombrero.checkpoints.header import TensorEntry
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.errors import CheckpointError

_WITH_SCALES = {"F8_E4M3", "I8"}
_SCALE_SUFFIXES = ("_scale_inv", "_scale")


class TensorReader:
    """Gives bytes of stored tensors by name; a context manager that closes the files it opened."""

    def __init__(self, index: CheckpointIndex) -> None:
        self.index = index
        self._stack = ExitStack()
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def read(self, name: str, begin: int, end: int) -> bytearray:
        """Bytes ``begin`` to ``end`` of the tensor's data. Raises CheckpointError when the file cannot give them."""
        entry = self.index.tensors[name]
        path = self.index.path(entry.file)
        raw = bytearray(end - begin)
        try:
            if entry.file not in self._files:
                self._files[entry.file] = self._stack.enter_context(path.open("rb"))
            stream = self._files[entry.file]
            stream.seek(entry.begin + begin)
            count = stream.readinto(raw)  # type: ignore[attr-defined]
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error}; make it readable or fetch it again") from error
        if count != len(raw):
            raise CheckpointError(f"{path} ended {len(raw) - count} bytes early while it was read; fetch it again")
        return raw


@dataclass(frozen=True)
class StoredWeight:
    """A weight by the name the architecture would use, and its codec; None for a tensor that is no matrix of numbers.

    tensors: all entries that store it.
    """

    name: str
    codec: Codec | None
    tensors: tuple[TensorEntry, ...]


def stored_weights(index: CheckpointIndex, block: tuple[int, int] | None = None) -> Iterator[StoredWeight]:
    """Every weight of a checkpoint, in the order of its files; a quantized one with all the tensors that store it."""
    tensors = index.tensors
    for name, entry in tensors.items():
        owner = _owner(name, tensors)
        if owner is not None and owner != name:
            if name.endswith("_blocks"):
                codec = find_codec(tensors, owner, block)
                yield StoredWeight(owner, codec, codec.tensors)
            continue
        matrix = (entry.dtype in DENSE and len(entry.shape) in (2, 3)) or owner == name
        codec_or_none = find_codec(tensors, name, block) if matrix else None
        yield StoredWeight(name, codec_or_none, codec_or_none.tensors if codec_or_none else (entry,))


def _owner(name: str, tensors: Mapping[str, TensorEntry]) -> str | None:
    """The weight that a quantized format's tensor belongs to; None for a plain tensor."""
    for suffix, other in (("_blocks", "_scales"), ("_scales", "_blocks")):
        base = name.removesuffix(suffix)
        if base != name and base + other in tensors:
            return base
    for suffix in _SCALE_SUFFIXES:
        base = name.removesuffix(suffix)
        if base != name and base in tensors and tensors[base].dtype in _WITH_SCALES:
            return base
    if tensors[name].dtype in _WITH_SCALES and any(name + suffix in tensors for suffix in _SCALE_SUFFIXES):
        return name
    return None
