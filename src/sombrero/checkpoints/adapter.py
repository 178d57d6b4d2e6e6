"""The same edit as a LoRA adapter, for those who do not want merged weights.

``W' = W - s V A^T`` is a LoRA of exact rank: ``lora_B = -s V``, ``lora_A = A^T``, scale 1. The layout is that of PEFT
(``adapter_config.json``, ``adapter_model.safetensors``), kept to what vLLM documents that it loads: one rank for all
modules (narrower ones are padded with zeros), no bias, no DoRA, no modules_to_save, module names of the base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from sombrero.checkpoints.companions import RECORD_NAME
from sombrero.checkpoints.plan import digest_edit
from sombrero.checkpoints.record import canonical, identity, write_record
from sombrero.checkpoints.staging import sync_file, whole_folder, write_text
from sombrero.errors import CheckpointError, NumericalError
from sombrero.records import LowRankEdit, ModelEdit, Writer

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdapterReport:
    """What was written. modules: paths of the adapted modules. rank: of all of them."""

    out: Path
    modules: tuple[str, ...]
    rank: int
    n_bytes: int


def export_adapter(
    edit: ModelEdit,
    writers: Sequence[Writer],
    out: Path,
    *,
    base: str,
    revision: str | None = None,
    provenance: Mapping[str, object],
    overwrite: bool = False,
) -> AdapterReport:
    """Write ``edit`` as a LoRA adapter to the folder ``out``, which appears in one rename.

    base, revision: what ``adapter_config.json`` names as the base. overwrite: an earlier adapter of ours is replaced.
    Tensors are float32. Raises CheckpointError where an
    adapter cannot hold the edit exactly (rescaled rows, a shift of a bias, fused experts), the edit is empty, or
    ``out`` is not; NumericalError when the edit is not finite.
    """
    out = out.resolve()
    replaces = overwrite and (out / CONFIG_NAME).is_file() and (out / RECORD_NAME).is_file()
    if out.exists() and not replaces and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"the output {out} is taken; give a new or empty folder")
    named = {writer.name: writer for writer in writers}
    unknown = sorted(set(edit) - set(named))
    if unknown:
        raise CheckpointError(f"the edit names {unknown}, which are no writers of this model; resolve them again")
    changes = {name: change for name, change in edit.items() if _does_something(change)}
    if not changes:
        raise CheckpointError("the edit changes nothing, so there is no adapter to write; give one with a strength")
    for name, change in changes.items():
        _check(named[name], change)
    rank = max(change.V.shape[-1] for change in changes.values())
    tensors: dict[str, torch.Tensor] = {}
    for name, change in changes.items():
        path = f"{_PREFIX}{named[name].module_path}"
        tensors[f"{path}.lora_A.weight"] = _padded(change.reader.T, rank, axis=0)
        tensors[f"{path}.lora_B.weight"] = _padded(-change.strength * change.V, rank, axis=1)
    config = _config([named[name] for name in changes], rank, base, revision)
    data = save(tensors, metadata={"format": "pt", "sombrero": canonical(provenance)})
    with whole_folder(out, replace=replaces) as folder:
        (folder / WEIGHTS_NAME).write_bytes(data)
        sync_file(folder / WEIGHTS_NAME)
        write_text(folder / CONFIG_NAME, json.dumps(config, indent=2) + "\n")
        files = {
            name: {
                "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
                "bytes": (folder / name).stat().st_size,
            }
            for name in (WEIGHTS_NAME, CONFIG_NAME)
        }
        record = {
            "kind": "adapter",
            "identity": identity(provenance, digest_edit(edit)),
            "provenance": dict(provenance),
            "edited": [
                {
                    "module": named[name].module_path,
                    "writer": name,
                    "layer": named[name].layer,
                    "strength": change.strength,
                    "rank": change.V.shape[-1],
                }
                for name, change in changes.items()
            ],
            "files": files,
        }
        write_record(folder, record)
    n_bytes = sum((out / name).stat().st_size for name in files)
    return AdapterReport(out, tuple(named[name].module_path for name in changes), rank, n_bytes)


def _does_something(change: LowRankEdit) -> bool:
    removes = change.strength != 0 and bool(change.V.any())
    return change.row_scale is not None or (
        removes and (bool(change.reader.any()) or (change.c is not None and bool(change.c.any())))
    )


def _check(writer: Writer, change: LowRankEdit) -> None:
    if writer.layout not in ("linear", "conv1d"):
        raise CheckpointError(
            f"{writer.name} is stored as {writer.layout}, and a LoRA holds plain layers alone; bake merged weights"
        )
    if change.A is None:
        raise CheckpointError(
            f"the edit of {writer.name} reads what the module writes, which a LoRA cannot; bake merged weights"
        )
    if change.row_scale is not None:
        raise CheckpointError(
            f"the edit of {writer.name} rescales whole rows (rule norm), which is not of low rank: no LoRA holds it; "
            "bake merged weights, or take another rule"
        )
    if change.c is not None and bool(change.c.any()):
        raise CheckpointError(
            f"the edit of {writer.name} shifts its bias (rule affine), and a LoRA that vLLM loads has none; bake "
            "merged weights, or take another rule"
        )
    A = change.A
    if change.V.shape != (writer.d_out, A.shape[-1]) or A.shape[0] != writer.d_in:
        raise CheckpointError(
            f"the edit of {writer.name} has V {tuple(change.V.shape)} and A {tuple(A.shape)}, the writer is "
            f"({writer.d_out}, {writer.d_in}); the edit was made for another model"
        )
    if not all(bool(torch.isfinite(part).all()) for part in (change.V, change.reader, torch.tensor(change.strength))):
        raise NumericalError(f"the edit of {writer.name} holds numbers that are not finite; fit it again")


def _padded(factor: torch.Tensor, rank: int, axis: int) -> torch.Tensor:
    """``factor`` in float32 with zeros up to ``rank`` on ``axis``."""
    missing = rank - factor.shape[axis]
    shape = list(factor.shape)
    shape[axis] = missing
    plain = factor.detach().to("cpu", torch.float32)
    return torch.cat([plain, torch.zeros(shape)], dim=axis).contiguous()


def _config(writers: Sequence[Writer], rank: int, base: str, revision: str | None) -> dict[str, object]:
    layouts = {writer.layout for writer in writers}
    if len(layouts) > 1:
        raise CheckpointError(f"the edited writers have the layouts {sorted(layouts)}; a LoRA has one: bake instead")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": rank,
        "lora_alpha": rank,  # the scale is lora_alpha / r
        "target_modules": [writer.module_path for writer in writers],
        "fan_in_fan_out": layouts == {"conv1d"},
        "bias": "none",
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
