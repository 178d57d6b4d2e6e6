"""Which tensors of a checkpoint an edit changes; what can be wrong is found here, before a byte is written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sombrero.checkpoints.formats import check_editable
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.edits.kernels import edit_bias, edit_weight
from sombrero.errors import CheckpointError, NumericalError
from sombrero.records import LowRankEdit, ModelEdit, Writer


@dataclass(frozen=True)
class TensorEdit:
    """The change of one tensor: the writer it belongs to, the writer's edit, and which part of the writer it is."""

    writer: Writer
    edit: LowRankEdit
    part: Literal["weight", "bias"]

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the edited tensor, in the shape and dtype of ``tensor``."""
        if self.part == "bias":
            return edit_bias(tensor, self.edit)
        return edit_weight(tensor, self.edit, self.writer.layout)


def plan_edits(index: CheckpointIndex, edit: ModelEdit, writers: Sequence[Writer]) -> dict[str, TensorEdit]:
    """Return tensor name -> its edit. A tensor that an edit does not change is not named: nothing is removed where
    strength, V, or A and c are zero, and no row is rescaled where row_scale is None.

    Raises CheckpointError when the edit, the writers and the checkpoint do not belong together, or the edit shifts the
    bias of a writer that has none; NumericalError when the edit is not finite.
    """
    named = _check_writers(index, edit, writers)
    planned: dict[str, TensorEdit] = {}
    for name, change in edit.items():
        writer = named[name]
        _check_edit(writer, change)
        parts: list[tuple[str, Literal["weight", "bias"]]] = []
        removes = change.strength != 0 and bool(change.V.any())
        rescales = change.row_scale is not None
        if rescales or (removes and change.A.any()):
            parts.append((writer.weight_name, "weight"))
        if removes and change.c is not None and change.c.any():
            parts.append((_bias_of(writer), "bias"))
        elif rescales and writer.bias_name is not None:
            parts.append((writer.bias_name, "bias"))
        for tensor_name, part in parts:
            if tensor_name in planned:
                raise CheckpointError(
                    f"tensor {tensor_name!r} belongs to the writers {planned[tensor_name].writer.name} and {name}, and "
                    "both are edited; edit one of them"
                )
            check_editable(index.tensors[tensor_name])
            planned[tensor_name] = TensorEdit(writer, change, part)
    return planned


def digest_edit(edit: ModelEdit) -> str:
    """Return the sha256 over every number of the edit; two edits with the same digest bake the same weights."""
    digest = hashlib.sha256()
    for name in sorted(edit):
        change = edit[name]
        digest.update(f"{name}\0{change.strength!r}".encode())
        for tensor in (change.V, change.A, change.c):
            if tensor is None:
                digest.update(b"\0none")
                continue
            plain = tensor.detach().to(device="cpu", dtype=torch.float64).contiguous()
            digest.update(f"\0{tuple(plain.shape)}".encode())
            digest.update(plain.numpy().tobytes())
        if change.row_scale is not None:
            digest.update(b"\0row_scale" + change.row_scale.detach().to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


def _check_writers(index: CheckpointIndex, edit: ModelEdit, writers: Sequence[Writer]) -> dict[str, Writer]:
    repeated = [name for name, count in Counter(writer.name for writer in writers).items() if count > 1]
    if repeated:
        raise CheckpointError(f"the writers {repeated} are given twice; give each once")
    named = {writer.name: writer for writer in writers}
    unknown = sorted(set(edit) - set(named))
    if unknown:
        raise CheckpointError(
            f"the edit names {unknown}, which are no writers of this model; resolve its writers again"
        )
    missing = [
        name
        for writer in writers
        for name in (writer.weight_name, writer.bias_name)
        if name is not None and name not in index.tensors
    ]
    if missing:
        raise CheckpointError(
            f"{index.folder} lacks the writers' tensors {missing}; the architecture does not describe this checkpoint"
        )
    for writer in writers:
        shape = (writer.d_out, writer.d_in) if writer.layout == "linear" else (writer.d_in, writer.d_out)
        for name, expected in ((writer.weight_name, shape), (writer.bias_name, (writer.d_out,))):
            if name is not None and index.tensors[name].shape != expected:
                raise CheckpointError(
                    f"{name} has shape {index.tensors[name].shape} in {index.folder}, the {writer.layout} writer "
                    f"{writer.name} expects {expected}; give the checkpoint that the edit was made on"
                )
    return named


def _check_edit(writer: Writer, edit: LowRankEdit) -> None:
    K = edit.V.shape[-1]
    c_shape = None if edit.c is None else tuple(edit.c.shape)
    if edit.V.shape != (writer.d_out, K) or edit.A.shape != (writer.d_in, K) or c_shape not in (None, (K,)):
        raise CheckpointError(
            f"the edit of {writer.name} has V {tuple(edit.V.shape)}, A {tuple(edit.A.shape)}, c {c_shape}; expected "
            f"V ({writer.d_out}, K), A ({writer.d_in}, K), c (K,); the edit was made for another model"
        )
    if edit.row_scale is not None and edit.row_scale.shape != (writer.d_out,):
        raise CheckpointError(
            f"the edit of {writer.name} rescales rows by {tuple(edit.row_scale.shape)} numbers; the writer has "
            f"{writer.d_out} rows; the edit was made for another model"
        )
    parts = (edit.V, edit.A, edit.c, edit.row_scale)
    finite = all(bool(torch.isfinite(part).all()) for part in parts if part is not None)
    if not finite or not abs(edit.strength) < float("inf"):
        raise NumericalError(
            f"the edit of {writer.name} (strength {edit.strength}) holds numbers that are not finite; fit it again"
        )


def _bias_of(writer: Writer) -> str:
    if writer.bias_name is None:
        raise CheckpointError(
            f"the edit of {writer.name} moves its bias (c is not zero), and the architecture has no bias there; take a "
            "rule without c (project, compose, norm or guarded)"
        )
    return writer.bias_name


def describe(planned: Mapping[str, TensorEdit]) -> list[dict[str, object]]:
    """Return one plain entry per changed tensor, for the record of a bake."""
    return [
        {
            "tensor": name,
            "writer": item.writer.name,
            "layer": item.writer.layer,
            "strength": item.edit.strength,
            "rank": item.edit.V.shape[-1],
        }
        for name, item in planned.items()
    ]
