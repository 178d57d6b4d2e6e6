"""The header of one safetensors file: read and validated without touching the data, and written again.

The format (safetensors documentation): eight bytes little-endian header length, a JSON object that maps each tensor to
its dtype, shape and ``data_offsets`` relative to the end of the header, then the data without holes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sombrero.errors import CheckpointError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
METADATA = "__metadata__"
DTYPE_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies. ``begin`` and ``end`` are byte positions from the start of ``file``."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def n_bytes(self) -> int:
        """Size of the tensor's data in bytes."""
        return self.end - self.begin


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file: its name inside the folder, size in bytes, tensors in data order, and raw header."""

    name: str
    size: int
    data_begin: int
    tensors: tuple[TensorEntry, ...]
    header: Mapping[str, Any]

    @property
    def metadata(self) -> Mapping[str, str]:
        """The free-form string pairs of the header."""
        metadata: Mapping[str, str] = self.header.get(METADATA, {})
        return metadata


def read_header(path: Path, name: str) -> WeightFile:
    """Read the header of the safetensors file at ``path``, called ``name`` in its checkpoint.

    Raises CheckpointError when the file is shorter than it says, or its header is not a valid one.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            if size < LENGTH_BYTES or length > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
                raise CheckpointError(
                    f"{path} has {size} bytes but its header claims {length}; it is truncated or no safetensors file: "
                    "fetch it again"
                )
            raw = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}; make it readable or fetch the checkpoint again") from error
    header = _parse(raw, path)
    data_begin = LENGTH_BYTES + length
    entries = [_entry(path, name, key, value, data_begin) for key, value in header.items() if key != METADATA]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_extents(path, entries, data_begin, size)
    return WeightFile(name, size, data_begin, tuple(entries), header)


def encode_header(header: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """Return the length and header bytes for the tensors of ``header``, in the same order, with other metadata.

    Raises CheckpointError when the result is longer than the format allows.
    """
    content = {METADATA: dict(metadata), **{key: value for key, value in header.items() if key != METADATA}}
    raw = json.dumps(content, separators=(",", ":")).encode("ascii")
    raw += b" " * (-len(raw) % LENGTH_BYTES)  # the data stays aligned to eight bytes
    if len(raw) > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"the safetensors header would take {len(raw)} bytes, the format allows {MAX_HEADER_BYTES}; "
            "shorten the provenance"
        )
    return len(raw).to_bytes(LENGTH_BYTES, "little") + raw


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key!r} appears twice")
            found[key] = value
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the header of {path} is not valid JSON: {error}; fetch the file again") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"the header of {path} is a {type(header).__name__}, not an object; fetch the file again")
    metadata = header.get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"the metadata in the header of {path} must map strings to strings; found {metadata!r}")
    return header


def _entry(path: Path, file: str, name: str, value: object, data_begin: int) -> TensorEntry:
    def bad(what: str) -> CheckpointError:
        return CheckpointError(f"tensor {name!r} in {path}: {what}; the file is damaged, fetch it again")

    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise bad(f"its header entry must have dtype, shape and data_offsets alone, found {value!r}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise bad(f"unknown dtype {dtype!r}")
    if not _counts(shape):
        raise bad(f"its shape must be a list of counts, found {shape!r}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise bad(f"its data_offsets must be two rising byte positions, found {offsets!r}")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise bad(f"{dtype} {shape} takes {bits / 8:g} bytes, its data_offsets span {offsets[1] - offsets[0]}")
    return TensorEntry(name, file, dtype, tuple(shape), data_begin + offsets[0], data_begin + offsets[1])


def _counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_extents(path: Path, entries: list[TensorEntry], data_begin: int, size: int) -> None:
    """The data must be covered exactly: an overlap would let an edit change a neighbour, a hole hides bytes."""
    position = data_begin
    for entry in entries:
        if entry.begin != position:
            kind = "overlaps the tensor before it" if entry.begin < position else "leaves a hole before it"
            raise CheckpointError(
                f"tensor {entry.name!r} in {path} {kind} (starts at byte {entry.begin}, expected {position}); "
                "fetch the file again"
            )
        position = entry.end
    if position != size:
        kind = "is truncated" if size < position else "has bytes that belong to no tensor"
        raise CheckpointError(f"{path} {kind}: {size} bytes, its header describes {position}; fetch the file again")
