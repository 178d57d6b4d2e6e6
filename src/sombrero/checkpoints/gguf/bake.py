"""Write an edited copy of a GGUF file: memory holds a few rows, everything that is not edited stays byte for byte."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch

from sombrero.checkpoints.companions import RECORD_NAME
from sombrero.checkpoints.formats import (
    Requantization,
    edit_slices,
    low_rank_slices,
    reads_of_outputs,
    require_survival,
)
from sombrero.checkpoints.gguf.codec import GgufCodec, target_kind
from sombrero.checkpoints.gguf.layout import GgufLayout, read_layout
from sombrero.checkpoints.header import TensorEntry
from sombrero.checkpoints.plan import digest_edit
from sombrero.checkpoints.record import canonical, identity, write_record
from sombrero.checkpoints.staging import whole_folder
from sombrero.edits.kernels import edit_bias
from sombrero.errors import CheckpointError
from sombrero.records import LowRankEdit, ModelEdit, Writer

CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class GgufReport:
    """edited: tensors of the file that have an edit, and how each came out. retyped: name -> (type before, after), of
    those whose type the gguf package can read but not write. survived: share of the edit that is stored."""

    out: Path
    edited: Mapping[str, Requantization]
    retyped: Mapping[str, tuple[str, str]]
    untouched: int
    survived: float
    n_bytes: int


@dataclass(frozen=True)
class _Change:
    """The edit of one tensor of the file."""

    writer: Writer
    edit: LowRankEdit
    bias: bool


def bake_gguf(
    source: Path,
    edit: ModelEdit,
    writers: Sequence[Writer],
    out: Path,
    *,
    provenance: Mapping[str, object],
    accept_error: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> GgufReport:
    """Write the GGUF file ``source`` with ``edit`` folded in, under its own name, to the folder ``out``.

    Edited tensors keep their type where the ``gguf`` package can write it, else take the next larger one that it can.
    Metadata and the order of tensors stay; ``provenance`` is added under ``sombrero.provenance`` and beside the file as
    ``sombrero.json``. on_progress gets data bytes done and in all.

    Raises CheckpointError when the file, the edit and the writers do not fit, ``out`` is not empty (overwrite: holds no
    bake of ours), too little of the edit is left after rounding (unless ``accept_error``) or the disk is full;
    NumericalError when an edited tensor is not finite.
    """
    out = out.resolve()
    ours = overwrite and (out / RECORD_NAME).is_file()
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"the output {out} is taken; give a new or empty folder")
    layout = read_layout(source)
    changes = _plan(layout, edit, writers)
    kinds = {
        entry.name: target_kind(GgufCodec(entry).kind, entry.shape[-1]).name
        for entry in layout.entries
        if entry.name in changes and not changes[entry.name].bias
    }
    retyped = {e.name: (e.dtype, kinds[e.name]) for e in layout.entries if kinds.get(e.name, e.dtype) != e.dtype}
    head, begins = layout.head({name: kind for name, (_, kind) in retyped.items()}, canonical(provenance))
    _check_space(layout, len(head), begins, out)
    with whole_folder(out, replace=ours) as folder:
        try:
            found, digest, n_bytes = _write(layout, changes, kinds, head, begins, folder / source.name, on_progress)
        except OSError as error:
            raise CheckpointError(f"cannot write {out}: {error}; free space or give another output folder") from error
        survived = require_survival(found, accept=accept_error)
        record = {
            "kind": "gguf",
            "identity": identity(provenance, digest_edit(edit)),
            "provenance": dict(provenance),
            "edited": [
                {"tensor": name, "writer": changes[name].writer.name, "energy": item.energy, **item.describe()}
                for name, item in found.items()
            ],
            "retyped": {name: list(pair) for name, pair in retyped.items()},
            "survived": survived,
            "untouched": len(layout.entries) - len(changes),
            "files": {source.name: {"sha256": digest, "bytes": n_bytes}},
        }
        write_record(folder, record)
    return GgufReport(out / source.name, found, retyped, len(layout.entries) - len(changes), survived, n_bytes)


def _plan(layout: GgufLayout, edit: ModelEdit, writers: Sequence[Writer]) -> dict[str, _Change]:
    named = {writer.name: writer for writer in writers}
    unknown = sorted(set(edit) - set(named))
    if unknown:
        raise CheckpointError(f"the edit names {unknown}, which are no writers of this model; resolve them again")
    entries = {entry.name: entry for entry in layout.entries}
    planned: dict[str, _Change] = {}
    for name, change in edit.items():
        writer = named[name]
        experts = () if writer.n_experts is None else (writer.n_experts,)
        removes = change.strength != 0 and bool(change.V.any())
        if change.row_scale is not None or (removes and bool(change.reader.any())):
            # a GGUF weight is (outputs, inputs), whichever way transformers keeps it
            shape = (*experts, writer.d_out, writer.d_in)
            planned[_find(layout, entries, writer, _fused(writer.weight_name, "weight"), shape)] = _Change(
                writer, change, bias=False
            )
        moved = removes and change.c is not None and bool(change.c.any())
        if moved and writer.bias_name is None:
            raise CheckpointError(
                f"the edit of {name} moves its bias, and the architecture has none; take another rule"
            )
        reads_output = removes and change.U is not None and bool(change.U.any())
        if writer.bias_name is not None and (moved or reads_output or change.row_scale is not None):
            shape = (*experts, writer.d_out)
            planned[_find(layout, entries, writer, _fused(writer.bias_name, "bias"), shape)] = _Change(
                writer, change, bias=True
            )
    return planned


def _fused(tensor: str, part: str) -> str:
    """The name by which the package knows a tensor: GGUF keeps experts together, as ``ffn_down_exps``."""
    plain = tensor.replace(".{expert}", "")
    return plain if plain.endswith(f".{part}") else f"{plain.removesuffix(f'_{part}')}.{part}"


def _find(
    layout: GgufLayout, entries: Mapping[str, TensorEntry], writer: Writer, tensor: str, shape: tuple[int, ...]
) -> str:
    name = layout.gguf_name(tensor)
    if name is None or name not in entries:
        raise CheckpointError(
            f"{layout.path} has no tensor for {tensor!r} of {writer.name} (looked for {name!r}); give the GGUF file of "
            "the model that the edit was made on"
        )
    if entries[name].shape != shape:
        raise CheckpointError(
            f"{name} has shape {entries[name].shape} in {layout.path}, {writer.name} expects {shape}; give the GGUF "
            "file of the model that the edit was made on"
        )
    return name


def _check_space(layout: GgufLayout, head: int, begins: Mapping[str, int], out: Path) -> None:
    needed = max(begins.values(), default=head) + 2 * max((e.n_bytes for e in layout.entries), default=0) + (1 << 20)
    place = next(parent for parent in out.parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise CheckpointError(f"the bake needs {needed} bytes and {place} has {free} free; free space")


class _Output:
    """A file that is written from the start to the end, hashed on the way."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.position = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.stream.write(data)
        self.digest.update(data)
        self.position += len(data)


def _write(
    layout: GgufLayout,
    changes: Mapping[str, _Change],
    kinds: Mapping[str, str],
    head: bytes,
    begins: Mapping[str, int],
    target: Path,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Requantization], str, int]:
    found: dict[str, Requantization] = {}
    total = sum(entry.n_bytes for entry in layout.entries)
    done = 0
    with layout.path.open("rb") as source, target.open("wb") as stream:
        out = _Output(stream)
        out.write(head)
        for entry in layout.entries:
            out.write(b"\0" * (begins[entry.name] - out.position))
            change = changes.get(entry.name)
            if change is None:
                _copy(source, entry.begin, entry.n_bytes, out)
            elif change.bias:
                _write_bias(source, entry, change, out)
            else:
                found[entry.name] = _edit(source, entry, change, kinds[entry.name], out)
            done += entry.n_bytes
            if on_progress is not None:
                on_progress(done, total)
        if layout.entries and layout.size > layout.entries[-1].end:
            out.write(b"\0" * (-out.position % layout.alignment))
        stream.flush()
        os.fsync(stream.fileno())
    return found, out.digest.hexdigest(), out.position


def _edit(source: BinaryIO, entry: TensorEntry, change: _Change, kind: str, out: _Output) -> Requantization:
    def read(_name: str, begin: int, end: int) -> bytearray:
        return _read(source, entry.begin + begin, end - begin)

    def write(_name: str, begin: int, data: memoryview) -> None:
        assert out.position == start + begin
        out.write(data)

    start = out.position
    codec = GgufCodec(entry)
    into = None if kind == entry.dtype else GgufCodec(replace(entry, dtype=kind))
    edits = [change.edit] * codec.n_matrices
    if change.edit.U is not None:
        U = change.edit.U.detach().to("cpu", torch.float32)
        edits = [replace(change.edit, A=A, U=None) for A in reads_of_outputs(codec, read, U)]
    return edit_slices(codec, read, write, low_rank_slices(edits, rows_are_outputs=True), into=into)


def _write_bias(source: BinaryIO, entry: TensorEntry, change: _Change, out: _Output) -> None:
    if entry.dtype != "F32":
        raise CheckpointError(f"the bias {entry.name!r} is stored as {entry.dtype}, expected F32; fetch the file again")
    bias = torch.frombuffer(_read(source, entry.begin, entry.n_bytes), dtype=torch.float32).reshape(entry.shape)
    out.write(edit_bias(bias, change.edit).contiguous().flatten().view(torch.uint8).numpy().data)


def _copy(source: BinaryIO, begin: int, n_bytes: int, out: _Output) -> None:
    for first in range(0, n_bytes, CHUNK_BYTES):
        out.write(_read(source, begin + first, min(CHUNK_BYTES, n_bytes - first)))


def _read(source: BinaryIO, begin: int, n_bytes: int) -> bytearray:
    raw = bytearray(n_bytes)
    source.seek(begin)
    count = source.readinto(raw)  # type: ignore[attr-defined]
    if count != n_bytes:
        raise CheckpointError(f"{source.name} ended {n_bytes - count} bytes early while it was read; fetch it again")
    return raw
