"""``sombrero.json`` beside the weights: what was edited, from which base, with which provenance, hash by hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sombrero.checkpoints.companions import RECORD_NAME
from sombrero.checkpoints.staging import write_text
from sombrero.checkpoints.transfer import hash_file
from sombrero.errors import CheckpointError

FORMAT = "sombrero-bake"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class BakeReport:
    """What a bake did.

    edited: tensors whose bytes changed. rounded_away: tensors whose edit was lost in rounding to the stored dtype.
    untouched: count of tensors copied bit for bit. energy: ``||W' - W||_F / ||W||_F`` per edited tensor. n_bytes,
    sha256: of all files written, ``sombrero.json`` aside. left_out: paths of the source that were not carried over.
    reused: an earlier complete bake of the same edit was found and checked instead. packed: one entry for each edited
    weight of a quantized format (``weight``, ``base_format``, ``stored``, ``format``, ``relative_error``, ``survived``,
    ``cosine``); survived: share of the edit that they hold, all together, None where there is none. gone, come: tensors
    that are in the base alone, and that are new, or in another form.
    """

    out: Path
    edited: tuple[str, ...]
    rounded_away: tuple[str, ...]
    untouched: int
    n_bytes: int
    seconds: float
    energy: Mapping[str, float]
    sha256: Mapping[str, str]
    left_out: tuple[str, ...]
    reused: bool = False
    packed: tuple[Mapping[str, Any], ...] = ()
    survived: float | None = None
    gone: tuple[str, ...] = ()
    come: tuple[str, ...] = ()


def canonical(value: Mapping[str, object]) -> str:
    """Return JSON with sorted keys: equal values give equal text. Raises CheckpointError when JSON cannot hold it."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the provenance is not plain JSON: {error}; give strings, finite numbers, lists and mappings alone"
        ) from error


def identity(provenance: Mapping[str, object], edit_digest: str) -> str:
    """Return the sha256 that a bake of this edit with this provenance is known by."""
    text = canonical({"edit": edit_digest, "format_version": FORMAT_VERSION, "provenance": provenance})
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def write_record(folder: Path, record: Mapping[str, object]) -> None:
    """Write ``sombrero.json``. It holds no time and no path, so the same bake gives the same bytes."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **record}
    write_text(folder / RECORD_NAME, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of a baked folder. Raises CheckpointError when there is none, or it is not one of ours."""
    path = folder / RECORD_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is no baked checkpoint: cannot read {path.name}: {error}; bake again"
        ) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT or record.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path} is not a {FORMAT} record of version {FORMAT_VERSION}; bake again")
    return record


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise CheckpointError unless every recorded file is in ``folder`` with its recorded content."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder} is incomplete: {name} is missing; bake again with overwrite")
        size = path.stat().st_size
        if size != expected["bytes"] or hash_file(path) != expected["sha256"]:
            raise CheckpointError(
                f"{path} changed after it was baked ({size} bytes, {expected['bytes']} recorded, or another hash); "
                "bake again with overwrite"
            )
