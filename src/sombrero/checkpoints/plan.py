"""Which tensors of a checkpoint an edit changes; what can be wrong is found here, before a byte is written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import torch

from sombrero.checkpoints.formats import block_shape, check_editable
from sombrero.checkpoints.formats.mxfp4 import BLOCK
from sombrero.checkpoints.formats.scaled import CODES
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.packed import PackedChange, Packing, plan_packed
from sombrero.edits.kernels import EXPERT_LAYOUTS, edit_bias, edit_weight
from sombrero.errors import CheckpointError, NumericalError
from sombrero.records import Layout, LowRankEdit, ModelEdit, StoredTensors, Writer


@dataclass(frozen=True)
class TensorEdit:
    """The change of one tensor: the writer it belongs to, the writer's edit, and which part of the writer it is.

    The writer's ``stored_layout`` is that of this checkpoint.
    """

    writer: Writer
    edit: LowRankEdit
    part: Literal["weight", "bias"]

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the edited tensor, in the shape and dtype of ``tensor``."""
        if self.part == "bias":
            return edit_bias(tensor, self.edit)
        return edit_weight(tensor, self.edit, self.writer.stored_layout)


@dataclass(frozen=True)
class Plan:
    """Everything that a bake changes. dense: tensor -> its edit. packed: weight -> what becomes of it."""

    dense: Mapping[str, TensorEdit]
    packed: Mapping[str, PackedChange]

    @property
    def rewritten(self) -> frozenset[str]:
        """Tensors of the source that are not copied."""
        stored = (entry.name for change in self.packed.values() for entry in change.stored)
        return frozenset(self.dense) | frozenset(stored)


def plan_edits(
    index: CheckpointIndex,
    edit: ModelEdit,
    writers: Sequence[Writer],
    packing: Packing | None = None,
    config: Mapping[str, Any] = MappingProxyType({}),
) -> Plan:
    """Return the edit of every tensor. One that an edit does not change is not named: nothing is removed where
    strength, V, or A and c (or U) are zero, and no row is rescaled where row_scale is None. Experts that have a tensor
    each are named one by one. packing: how edited packed weights are stored, see
    :func:`~sombrero.checkpoints.packed.plan_packed`; config: the content of config.json, which has a say in it.

    Raises CheckpointError when the edit, the writers and the checkpoint do not belong together, or the edit shifts the
    bias of a writer that has none; NumericalError when the edit is not finite.
    """
    named = _check_writers(index, edit, writers)
    block = block_shape(index.folder)
    planned: dict[str, TensorEdit] = {}
    packed: dict[str, PackedChange] = {}
    for name, change in edit.items():
        writer = named[name]
        _check_edit(writer, change)
        parts: list[tuple[str, Literal["weight", "bias"]]] = []
        removes = change.strength != 0 and bool(change.V.any())
        rescales = change.row_scale is not None
        if rescales or (removes and _reads_anything(change)):
            parts += [(tensor, "weight") for tensor in each_expert(writer, writer.weight_name)]
        if removes and change.c is not None and change.c.any():
            parts += [(tensor, "bias") for tensor in each_expert(writer, _bias_of(writer))]
        elif writer.bias_name is not None and (rescales or (removes and change.U is not None and change.U.any())):
            parts += [(tensor, "bias") for tensor in each_expert(writer, writer.bias_name)]
        for tensor_name, part in parts:
            _check_free(tensor_name, name, planned, packed)
            if part == "weight" and is_packed(index, tensor_name):
                changes = plan_packed(index.tensors, tensor_name, writer, change, packing, config, block)
                packed |= {item.weight_name: item for item in changes}
                continue
            check_editable(index.tensors[tensor_name])
            planned[tensor_name] = TensorEdit(writer, change, part)
    return Plan(planned, packed)


def _check_free(
    tensor: str, writer: str, planned: Mapping[str, TensorEdit], packed: Mapping[str, PackedChange]
) -> None:
    other = planned.get(tensor) or packed.get(tensor)
    if other is not None and other.writer is not None:
        raise CheckpointError(
            f"tensor {tensor!r} belongs to the writers {other.writer.name} and {writer}, and both are edited; edit one "
            "of them"
        )


def is_packed(index: CheckpointIndex, weight: str) -> bool:
    """Whether the weight is stored as codes and scales; False for one that is not there."""
    entry = index.tensors.get(weight)
    return f"{weight}_blocks" in index.tensors if entry is None else entry.dtype in CODES


def _has(index: CheckpointIndex, weight: str) -> bool:
    return weight in index.tensors or f"{weight}_blocks" in index.tensors


def _shape(index: CheckpointIndex, weight: str) -> tuple[int, ...]:
    """The shape of a weight as its numbers are laid out in the checkpoint."""
    entry = index.tensors.get(weight)
    if entry is not None:
        return entry.shape
    shape = index.tensors[f"{weight}_blocks"].shape
    return shape if len(shape) < 3 else (*shape[:-2], shape[-2] * BLOCK)


def as_stored(index: CheckpointIndex, writer: Writer) -> Writer:
    """The writer with names and layout of its tensors as this checkpoint has them, of all ways that it may.

    The usual way where the checkpoint has none of them.
    """
    ways = writer.stored or (StoredTensors(writer.weight_name, writer.bias_name, writer.layout),)
    for way in ways:
        names = (way.weight, way.bias)
        if all(_has(index, tensor) for name in names if name for tensor in each_expert(writer, name)):
            break
    else:
        way = ways[0]
    return replace(writer, weight_name=way.weight, bias_name=way.bias, stored=(way,))


def each_expert(writer: Writer, name: str) -> tuple[str, ...]:
    """The names that a name with ``{expert}`` stands for."""
    if "{expert}" not in name:
        return (name,)
    return tuple(name.replace("{expert}", str(expert)) for expert in range(writer.n_experts or 0))


def _reads_anything(edit: LowRankEdit) -> bool:
    side = edit.U if edit.A is None else edit.A
    return side is not None and bool(side.any())


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
        for label, optional in (("row_scale", change.row_scale), ("U", change.U)):
            if optional is not None:
                plain = optional.detach().to("cpu", torch.float64).contiguous()
                digest.update(f"\0{label}".encode() + plain.numpy().tobytes())
    return digest.hexdigest()


def _check_writers(index: CheckpointIndex, edit: ModelEdit, writers: Sequence[Writer]) -> dict[str, Writer]:
    repeated = [name for name, count in Counter(writer.name for writer in writers).items() if count > 1]
    if repeated:
        raise CheckpointError(f"the writers {repeated} are given twice; give each once")
    named = {writer.name: as_stored(index, writer) for writer in writers}
    unknown = sorted(set(edit) - set(named))
    if unknown:
        raise CheckpointError(
            f"the edit names {unknown}, which are no writers of this model; resolve its writers again"
        )
    missing = [name for writer in named.values() for name, _ in _shapes(index, writer) if not _has(index, name)]
    if missing:
        raise CheckpointError(
            f"{index.folder} lacks the writers' tensors {missing}; the architecture does not describe this checkpoint"
        )
    for writer in named.values():
        _check_shapes(index, writer)
    return named


def _shapes(index: CheckpointIndex, writer: Writer) -> list[tuple[str, tuple[int, ...]]]:
    """Every tensor of the writer, with the shape that it must have. Packed experts are stored with outputs as rows."""
    layout, experts = writer.stored_layout, (writer.n_experts,) if writer.n_experts is not None else ()
    joined = layout in EXPERT_LAYOUTS
    one: Layout = EXPERT_LAYOUTS.get(layout, layout)
    first = experts if joined else ()
    weights: list[tuple[str, tuple[int, ...]]] = []
    for name in each_expert(writer, writer.weight_name):
        outputs_first = one == "linear" or (joined and is_packed(index, name))
        sizes = (writer.d_out, writer.d_in) if outputs_first else (writer.d_in, writer.d_out)
        weights.append((name, (*first, *sizes)))
    if writer.bias_name is None:
        return weights
    return weights + [(name, (*first, writer.d_out)) for name in each_expert(writer, writer.bias_name)]


def _check_shapes(index: CheckpointIndex, writer: Writer) -> None:
    wrong = [(name, expected) for name, expected in _shapes(index, writer) if _shape(index, name) != expected]
    if wrong:
        found = ", ".join(f"{name} {_shape(index, name)}" for name, _ in wrong[:8])
        raise CheckpointError(
            f"{index.folder} has other shapes than the {writer.stored_layout} writer {writer.name} expects, "
            f"{wrong[0][1]} each: {found}; give the checkpoint that the edit was made on"
        )
    extra = writer.weight_name.replace("{expert}", str(writer.n_experts))
    if extra != writer.weight_name and _has(index, extra):
        raise CheckpointError(
            f"{index.folder} has a tensor {extra}, and the model has {writer.n_experts} experts there; the "
            "configuration and the weights belong to different models"
        )


def _check_edit(writer: Writer, edit: LowRankEdit) -> None:
    K = edit.V.shape[-1]
    c_shape = None if edit.c is None else tuple(edit.c.shape)
    read, side, size = ("A", edit.A, writer.d_in) if edit.A is not None else ("U", edit.U, writer.d_out)
    assert side is not None, "an edit reads either the input or the output"
    if edit.V.shape != (writer.d_out, K) or side.shape != (size, K) or c_shape not in (None, (K,)):
        raise CheckpointError(
            f"the edit of {writer.name} has V {tuple(edit.V.shape)}, {read} {tuple(side.shape)}, c {c_shape}; expected "
            f"V ({writer.d_out}, K), {read} ({size}, K), c (K,); the edit was made for another model"
        )
    if edit.A is not None and writer.n_experts is not None:
        raise CheckpointError(
            f"the edit of {writer.name} reads inputs, and its {writer.n_experts} experts have each their own; take the "
            "rule project or compose"
        )
    if edit.row_scale is not None and edit.row_scale.shape != (writer.d_out,):
        raise CheckpointError(
            f"the edit of {writer.name} rescales rows by {tuple(edit.row_scale.shape)} numbers; the writer has "
            f"{writer.d_out} rows; the edit was made for another model"
        )
    parts = (edit.V, edit.A, edit.c, edit.row_scale, edit.U)
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


def describe(plan: Plan) -> list[dict[str, object]]:
    """Return one plain entry per changed tensor of the result, for the record of a bake."""
    found = [_describe(name, item.writer, item.edit) for name, item in plan.dense.items()]
    for change in plan.packed.values():
        if change.writer is not None and change.edit is not None:
            stored = change.stored if change.new is None else (change.new,)
            found += [_describe(entry.name, change.writer, change.edit) for entry in stored]
    return found


def _describe(tensor: str, writer: Writer, edit: LowRankEdit) -> dict[str, object]:
    return {
        "tensor": tensor,
        "writer": writer.name,
        "layer": writer.layer,
        "strength": edit.strength,
        "rank": edit.V.shape[-1],
    }
