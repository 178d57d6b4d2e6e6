"""Where every tensor lies in a new weight file: as in the source, but dense ones for packed ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sombrero.checkpoints.companions import index_file
from sombrero.checkpoints.header import DTYPE_BITS, METADATA, TensorEntry, WeightFile
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.packed import PackedChange
from sombrero.errors import CheckpointError


@dataclass(frozen=True)
class Layout:
    """header: of the new file, without its metadata. begins: tensor -> its first byte, from the start of the data.
    size: bytes of data."""

    header: Mapping[str, Any]
    begins: Mapping[str, int]
    size: int


def lay_out(file: WeightFile, packed: Iterable[PackedChange]) -> Layout:
    """The new file's layout: tensors keep their order, a dense one stands where the numbers of its packed form stood.

    Raises CheckpointError when a tensor would lie at a position that loaders cannot map.
    """
    gone, placed = replacements(packed)
    tensors: list[TensorEntry] = []
    for entry in file.tensors:
        if entry.name in placed:
            tensors.append(placed[entry.name])
        elif entry.name not in gone:
            tensors.append(entry)
    begins: dict[str, int] = {}
    position = 0
    for entry in tensors:
        begins[entry.name] = position
        _check_alignment(file, entry, position)
        position += entry.n_bytes
    if not any(entry.name in gone for entry in file.tensors):
        return Layout({name: value for name, value in file.header.items() if name != METADATA}, begins, position)
    header = {
        entry.name: {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [begins[entry.name], begins[entry.name] + entry.n_bytes],
        }
        for entry in tensors
    }
    return Layout(header, begins, position)


def replacements(packed: Iterable[PackedChange]) -> tuple[set[str], dict[str, TensorEntry]]:
    """Names of stored tensors that go; and of those that a dense one takes the place of, that one."""
    gone: set[str] = set()
    placed: dict[str, TensorEntry] = {}
    for change in packed:
        if change.new is not None:
            gone |= {entry.name for entry in change.stored}
            placed[change.stored[0].name] = change.new
    return gone, placed


def new_index(index: CheckpointIndex, packed: Iterable[PackedChange]) -> bytes | None:
    """The content of the shard index, where tensors go and come; None where it stays as it is, or there is none."""
    gone, placed = replacements(packed)
    path = index_file(index)
    if path is None or not gone:
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    weight_map: dict[str, str] = {}
    for name, file in content["weight_map"].items():
        if name in placed:
            weight_map[placed[name].name] = file
        elif name not in gone:
            weight_map[name] = file
    content["weight_map"] = weight_map
    metadata = content.get("metadata")
    if isinstance(metadata, dict) and "total_size" in metadata:
        kept = sum(entry.n_bytes for name, entry in index.tensors.items() if name not in gone)
        metadata["total_size"] = kept + sum(entry.n_bytes for entry in placed.values())
    return (json.dumps(content, indent=2) + "\n").encode()


def _check_alignment(file: WeightFile, entry: TensorEntry, position: int) -> None:
    width = max(1, DTYPE_BITS[entry.dtype] // 8)
    was_aligned = entry.file != file.name or (entry.begin - file.data_begin) % width == 0  # a new one has no file
    if position % width and was_aligned:
        raise CheckpointError(
            f"tensor {entry.name!r} ({entry.dtype}) would lie at byte {position} of {file.name}, which is no multiple "
            f"of {width}: loaders cannot map it; take --packed nearest or --packed carry"
        )
