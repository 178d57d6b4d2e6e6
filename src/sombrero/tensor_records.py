"""Records that hold tensors, on disk: one safetensors file each, the other fields as JSON in its metadata."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sombrero.errors import RunError
from sombrero.records import LowRankEdit, ModelEdit

T = TypeVar("T")
EDIT_PARTS = ("A", "c", "row_scale", "U")
"""Tensors that an edit may have beside its V."""


def save_record(record: Any, path: Path) -> None:
    """Write a flat frozen dataclass of tensors and JSON-able values, atomically."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    tensors = {name: _owned(value) for name, value in fields.items() if isinstance(value, torch.Tensor)}
    rest = {name: value for name, value in fields.items() if name not in tensors}
    _write(tensors, rest, path)


def load_record(kind: type[T], path: Path) -> T:
    """Read what :func:`save_record` wrote. Raises RunError when the file is missing or damaged."""
    tensors, rest = _read(path)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in rest.items()}
    return kind(**tensors, **values)


def save_edit(edit: ModelEdit, path: Path) -> None:
    """Write an edit: ``WRITER/V`` and, where there is one, ``WRITER/A``, ``/c``, ``/row_scale`` and ``/U``."""
    tensors: dict[str, torch.Tensor] = {}
    for name, low_rank in edit.items():
        # own memory for each: writers of a layer share V, and safetensors refuses tensors that share memory
        parts = {part: getattr(low_rank, part) for part in ("V", *EDIT_PARTS)}
        tensors |= {f"{name}/{part}": _owned(tensor) for part, tensor in parts.items() if tensor is not None}
    _write(tensors, {name: low_rank.strength for name, low_rank in edit.items()}, path)


def load_edit(path: Path) -> ModelEdit:
    """Read what :func:`save_edit` wrote. Raises RunError when the file is missing or damaged."""
    tensors, strengths = _read(path)
    return {
        name: LowRankEdit(
            tensors[f"{name}/V"], strength=strength, **{part: tensors.get(f"{name}/{part}") for part in EDIT_PARTS}
        )
        for name, strength in strengths.items()
    }


def _owned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file under a temporary name, then rename it.

    Raises OSError with the system's error number, as other writing does: safetensors itself hides it in a message.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    try:
        save_file(dict(tensors), temporary, metadata=dict(metadata))
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
    temporary.replace(path)


def _write(tensors: dict[str, torch.Tensor], rest: dict[str, Any], path: Path) -> None:
    write_tensors(tensors, path, {"sombrero": json.dumps(rest)})


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            rest: dict[str, Any] = json.loads((file.metadata() or {})["sombrero"])
            return {key: file.get_tensor(key) for key in file.keys()}, rest  # noqa: SIM118 - safe_open is no mapping
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RunError(f"the record {path} cannot be read: {error}; start over with --fresh") from error
