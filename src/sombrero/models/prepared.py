"""Folders that are made once and kept: written under another name, stamped, and renamed into place."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

STAMP = "sombrero.json"


def prepared_folder(folder: Path, write: Callable[[Path], None], facts: Mapping[str, object]) -> Path:
    """``folder`` if it is complete; else ``write`` fills it. ``facts`` go into its stamp. Raises OSError."""
    if is_complete(folder):
        return folder
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if is_complete(folder):  # another process made it while this one waited
            return folder
        for leftover in (unfinished, folder):
            if leftover.exists():
                shutil.rmtree(leftover)
        unfinished.mkdir()
        write(unfinished)
        _write_stamp(unfinished, facts)
        unfinished.rename(folder)
    return folder


def is_complete(folder: Path) -> bool:
    """Whether the stamp, which is written last, is there and every file it lists has its recorded size."""
    stamp = folder / STAMP
    if not stamp.is_file():
        return False
    files = json.loads(stamp.read_text(encoding="utf-8"))["files"]
    return all((folder / n).is_file() and (folder / n).stat().st_size == f["bytes"] for n, f in files.items())


def file_sha256(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_stamp(folder: Path, facts: Mapping[str, object]) -> None:
    files = {p.name: {"sha256": file_sha256(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}
    stamp = {**facts, "files": files}
    (folder / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
