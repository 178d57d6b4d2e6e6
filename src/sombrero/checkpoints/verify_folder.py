"""Proof that a baked folder, or an adapter, still holds what was written: every recorded hash computed again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sombrero.checkpoints.companions import RECORD_NAME
from sombrero.checkpoints.header import read_header
from sombrero.checkpoints.record import canonical, read_record
from sombrero.errors import CheckpointError


@dataclass(frozen=True)
class FolderReport:
    """files: those of the record, all as recorded. unrecorded: other files in the folder. n_bytes: what was hashed."""

    files: tuple[str, ...]
    unrecorded: tuple[str, ...]
    n_bytes: int


def verify_folder(folder: Path) -> FolderReport:
    """Compute the hash of every file that ``sombrero.json`` records again, and compare.

    The provenance in the header of each weight file must be that of the record, too. Raises CheckpointError that names
    every file that is missing or differs.
    """
    record = read_record(folder)
    problems: list[str] = []
    n_bytes = 0
    for name, expected in record["files"].items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            problems.append(f"{name} is missing")
            continue
        n_bytes += path.stat().st_size
        if path.stat().st_size != expected["bytes"]:
            problems.append(f"{name} has {path.stat().st_size} bytes, {expected['bytes']} are recorded")
        elif _sha256(path) != expected["sha256"]:
            problems.append(f"{name} has another hash")
        elif name.endswith(".safetensors"):
            stored = read_header(path, name).metadata.get("sombrero", "null")
            if stored != canonical(record["provenance"]):
                problems.append(f"{name} carries another provenance than {RECORD_NAME}")
    if problems:
        raise CheckpointError(f"{folder} is not what {RECORD_NAME} says: {'; '.join(problems)}; bake or fetch it again")
    known = {*record["files"], RECORD_NAME}
    present = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return FolderReport(tuple(record["files"]), tuple(name for name in present if name not in known), n_bytes)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
