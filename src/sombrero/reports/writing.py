"""Files of a report, written under a temporary name and renamed: a reader never meets half of one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sombrero.errors import RunError


def write(path: Path, data: bytes) -> None:
    """Write a file, and its folder where there is none. Raises RunError when the disk does not take it."""
    temporary = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}; make room, or make the folder writable") from error


def remove(paths: Iterable[Path]) -> None:
    """Remove files where they are. Raises RunError when one stays."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot remove {path}: {error}; make the folder writable") from error
