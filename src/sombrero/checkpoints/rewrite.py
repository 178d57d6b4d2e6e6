"""Copy one safetensors file, tensor by tensor, with some tensors edited on the way."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import torch

from sombrero.checkpoints.formats import decode, encode
from sombrero.checkpoints.header import TensorEntry, WeightFile, encode_header
from sombrero.checkpoints.plan import TensorEdit
from sombrero.errors import CheckpointError, NumericalError

CHUNK_BYTES = 4 << 20
_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class RewrittenFile:
    """What came of one file: hashes of what was read and written, and per edited tensor its energy.

    energy: ``||W' - W||_F / ||W||_F`` of the stored numbers; 0 when rounding to the stored dtype undid the edit.
    """

    source_sha256: str
    sha256: str
    n_bytes: int
    energy: Mapping[str, float]


class _Digest(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...


def rewrite_file(
    source: Path,
    file: WeightFile,
    target: Path,
    edits: Mapping[str, TensorEdit],
    metadata: Mapping[str, str],
    on_bytes: Callable[[int], None],
) -> RewrittenFile:
    """Write ``target``: the tensors of ``file`` in the same order, dtypes and shapes, with ``metadata`` added.

    Untouched tensors pass as bytes; edited ones are held one at a time. The target is on disk (fsync) on return.
    on_bytes gets the count of data bytes done since its last call.

    Raises CheckpointError when the source ends early, NumericalError when an edited tensor is not finite, OSError when
    the target cannot be written.
    """
    energy: dict[str, float] = {}
    read_digest, write_digest = hashlib.sha256(), hashlib.sha256()
    # Files without metadata load, but files with metadata and no format do not in every loader.
    header = encode_header(file.header, {"format": "pt", **file.metadata, **metadata})
    with source.open("rb") as reader, target.open("wb") as writer:
        read_digest.update(_read(reader, file.data_begin, source))
        _write(writer, header, write_digest)
        for entry in file.tensors:
            change = edits.get(entry.name)
            if change is None:
                copy_bytes(
                    reader, entry.n_bytes, source, lambda chunk: _write(writer, chunk, write_digest), read_digest
                )
            else:
                raw = _read(reader, entry.n_bytes, source)
                read_digest.update(raw)
                edited, energy[entry.name] = _edit(raw, entry, change)
                # An edit lost in rounding leaves the bytes too: -0.0 must not become 0.0.
                _write(writer, encode(edited) if energy[entry.name] > 0 else memoryview(raw), write_digest)
            on_bytes(entry.n_bytes)
        writer.flush()
        os.fsync(writer.fileno())
    n_bytes = len(header) + file.size - file.data_begin
    return RewrittenFile(read_digest.hexdigest(), write_digest.hexdigest(), n_bytes, energy)


def copy_bytes(
    reader: BinaryIO, n_bytes: int, source: Path, write: Callable[[memoryview], None], digest: _Digest | None = None
) -> None:
    """Hand the next ``n_bytes`` of ``reader`` to ``write`` and ``digest``; CheckpointError at an early end."""
    buffer = memoryview(bytearray(min(CHUNK_BYTES, n_bytes)))
    while n_bytes > 0:
        count = reader.readinto(buffer[:n_bytes])  # type: ignore[attr-defined]
        if not count:
            raise _ended(source, n_bytes)
        if digest is not None:
            digest.update(buffer[:count])
        write(buffer[:count])
        n_bytes -= count


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _edit(raw: bytearray, entry: TensorEntry, change: TensorEdit) -> tuple[torch.Tensor, float]:
    before = decode(raw, entry)
    after = change.apply(before)
    if not bool(torch.isfinite(after).all()):
        raise NumericalError(
            f"tensor {entry.name!r} is not finite after its edit of strength {change.edit.strength} in {entry.dtype}; "
            "lower the strength, or bake from a checkpoint with a wider dtype"
        )
    return after, _energy(before, after)


def _energy(before: torch.Tensor, after: torch.Tensor) -> float:
    """Relative Frobenius norm of the change, in blocks so that no second full copy in float64 is made."""
    changed, total = 0.0, 0.0
    for old, new in zip(
        torch.split(before.flatten(), _BLOCK_ELEMENTS), torch.split(after.flatten(), _BLOCK_ELEMENTS), strict=True
    ):
        old64 = old.to(torch.float64)
        changed += float((new.to(torch.float64) - old64).square().sum())
        total += float(old64.square().sum())
    return math.sqrt(changed) / max(math.sqrt(total), torch.finfo(torch.float32).tiny)


def _read(reader: BinaryIO, n_bytes: int, source: Path) -> bytearray:
    raw = bytearray(n_bytes)
    view, position = memoryview(raw), 0
    while position < n_bytes:
        count = reader.readinto(view[position:])  # type: ignore[attr-defined]
        if not count:
            raise _ended(source, n_bytes - position)
        position += count
    return raw


def _write(writer: BinaryIO, chunk: bytes | memoryview, digest: _Digest) -> None:
    writer.write(chunk)
    digest.update(chunk)


def _ended(source: Path, missing: int) -> CheckpointError:
    return CheckpointError(f"{source} ended {missing} bytes early while it was read; it changed, or fetch it again")
