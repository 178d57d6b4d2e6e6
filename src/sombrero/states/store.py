"""Hidden states on disk: safetensors shards, read back memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from sombrero.errors import RunError
from sombrero.records import HiddenStates
from sombrero.tensor_records import write_tensors

HIDDEN = "hidden"
INPUT_PREFIX = "writer_inputs/"


def shard_path(folder: Path, name: str, shard: int) -> Path:
    """Where the ``shard``-th file of the set ``name`` lies."""
    return folder / f"{name}-{shard:05d}.safetensors"


def save_states(states: HiddenStates, path: Path) -> None:
    """Write one shard: under a temporary name first, then renamed."""
    tensors: dict[str, torch.Tensor] = {HIDDEN: states.hidden.contiguous()}
    tensors |= {INPUT_PREFIX + name: tensor.contiguous() for name, tensor in states.writer_inputs.items()}
    write_tensors(tensors, path, {"prompt_ids": json.dumps(states.prompt_ids)})


def load_states(folder: Path, name: str) -> HiddenStates:
    """Read all shards of the set ``name``. A set of one shard stays memory-mapped.

    Raises RunError when there is no shard, a number is missing, or a file is damaged.
    """
    paths = sorted(folder.glob(f"{name}-*.safetensors"))
    if not paths or paths != [shard_path(folder, name, index) for index in range(len(paths))]:
        raise RunError(f"the states {name!r} in {folder} are missing or incomplete; start again with --fresh")
    ids: list[str] = []
    parts: dict[str, list[torch.Tensor]] = {}
    for path in paths:
        shard_ids, tensors = _read(path)
        ids += shard_ids
        for key, tensor in tensors.items():
            parts.setdefault(key, []).append(tensor)
    joined = {key: rows[0] if len(rows) == 1 else torch.cat(rows) for key, rows in parts.items()}
    hidden = joined.pop(HIDDEN)
    return HiddenStates(tuple(ids), hidden, {key.removeprefix(INPUT_PREFIX): rows for key, rows in joined.items()})


def _read(path: Path) -> tuple[list[str], Mapping[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            ids = json.loads((file.metadata() or {})["prompt_ids"])
            return ids, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RunError(f"the states in {path} cannot be read: {error}; start again with --fresh") from error
