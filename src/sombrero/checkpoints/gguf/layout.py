"""Where everything lies in a GGUF file, and the head of an edited copy.

Format (ggml's gguf.md): magic, version, number of tensors, number of key-value pairs; the pairs; for each tensor its
name, axes, type and offset; then, aligned, the tensors' data. The package reads it; the head is put together from the
bytes that it found, so that what is not changed stays the same byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFReader, GGUFValueType, TensorNameMap, get_tensor_name_map

from sombrero.checkpoints.header import TensorEntry
from sombrero.errors import CheckpointError

PROVENANCE_KEY = "sombrero.provenance"
_COUNTS = slice(8, 24)  # of tensors and of pairs, after magic and version


@dataclass(frozen=True)
class GgufLayout:
    """A GGUF file: pairs (raw bytes by key), tensors in the order of their data, names in the order of the head.

    entries' dtype is the name of the type, shape as numpy has it (outputs first), begin and end from the file's start.
    """

    path: Path
    magic: bytes
    pairs: Mapping[str, bytes]
    head_order: tuple[str, ...]
    entries: tuple[TensorEntry, ...]
    alignment: int
    size: int
    names: TensorNameMap

    def gguf_name(self, tensor: str) -> str | None:
        """What the file calls the tensor that transformers calls ``tensor``; None where it has no such name."""
        return self.names.get_name(tensor, try_suffixes=(".weight", ".bias"))

    def head(self, kinds: Mapping[str, str], provenance: str) -> tuple[bytes, dict[str, int]]:
        """The bytes before the data, with other types for some tensors, and where each tensor's data then begins."""
        sizes = {e.name: e.n_bytes for e in self.entries} | {
            e.name: _n_bytes(e, kinds[e.name]) for e in self.entries if e.name in kinds
        }
        offsets: dict[str, int] = {}
        position = 0
        for entry in self.entries:
            offsets[entry.name] = position
            position += sizes[entry.name] + -sizes[entry.name] % self.alignment
        pairs = {key: raw for key, raw in self.pairs.items() if key != PROVENANCE_KEY}
        pairs[PROVENANCE_KEY] = _string(PROVENANCE_KEY) + struct.pack("<I", GGUFValueType.STRING) + _string(provenance)
        parts = [self.magic, struct.pack("<QQ", len(self.entries), len(pairs)), *pairs.values()]
        by_name = {entry.name: entry for entry in self.entries}
        for name in self.head_order:
            entry = by_name[name]
            kind = GGMLQuantizationType[kinds.get(name, entry.dtype)]
            axes = struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *reversed(entry.shape))
            parts += [_string(name), axes, struct.pack("<IQ", kind, offsets[name])]
        head = b"".join(parts)
        head += b"\0" * (-len(head) % self.alignment)
        return head, {name: len(head) + offset for name, offset in offsets.items()}


def read_layout(path: Path) -> GgufLayout:
    """Read a GGUF file's head. Raises CheckpointError when it is none, is cut short, or of an unknown architecture."""
    try:
        reader = GGUFReader(path)
        size = path.stat().st_size
        arch = reader.fields["general.architecture"].contents()
        model = next(key for key, name in MODEL_ARCH_NAMES.items() if name == arch)
        blocks = int(reader.fields[f"{arch}.block_count"].contents())
    except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
        raise CheckpointError(
            f"{path} is no GGUF file of a known architecture ({error!r}); give another one"
        ) from error
    if reader.byte_order != "I" or int.from_bytes(reader.data[:4].tobytes(), "little") != 0x46554747:
        raise CheckpointError(f"{path} is stored in the other byte order; convert it first")
    entries = [
        TensorEntry(
            tensor.name,
            path.name,
            tensor.tensor_type.name,
            tuple(int(n) for n in reversed(tensor.shape)),
            int(tensor.data_offset),
            int(tensor.data_offset + tensor.n_bytes),
        )
        for tensor in reader.tensors
    ]
    order = tuple(entry.name for entry in entries)
    entries.sort(key=lambda entry: entry.begin)
    position = int(reader.data_offset)
    for entry in entries:
        if entry.begin < position or entry.end > size:
            raise CheckpointError(
                f"tensor {entry.name!r} in {path} overlaps another or ends after the file; fetch it again"
            )
        position = entry.end
    infos = min((tensor.field.offset for tensor in reader.tensors), default=int(reader.data_offset))
    fields = [field for name, field in reader.fields.items() if not name.startswith("GGUF.")]
    ends = [*(field.offset for field in fields[1:]), infos]
    pairs = {field.name: reader.data[field.offset : end].tobytes() for field, end in zip(fields, ends, strict=True)}
    magic = reader.data[: _COUNTS.start].tobytes()
    names = get_tensor_name_map(model, blocks)
    return GgufLayout(path, magic, pairs, order, tuple(entries), int(reader.alignment), size, names)


def _n_bytes(entry: TensorEntry, kind: str) -> int:
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    count = 1
    for n in entry.shape:
        count *= n
    return count // block * size


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw
