"""Build a folder beside its final place, and put it there in one rename: either all of it is seen, or none of it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sombrero.errors import CheckpointError

if sys.platform != "win32":
    import fcntl

UNFINISHED = ".unfinished"
"""Suffix of a file whose content is complete only when it is renamed."""


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Give an empty folder ``<out>.partial-<pid>`` to fill; on a clean exit it becomes ``out``, else it is removed.

    What a killed process left behind is removed first. A complete folder at ``out`` is replaced: it steps aside, the
    new one takes its name, the old one is deleted. Raises CheckpointError while another process fills ``out``.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir()
    lock = _lock(partial)
    published = False
    try:
        yield partial
        for folder in [partial, *(path for path in partial.rglob("*") if path.is_dir())]:
            sync_folder(folder)
        _publish(partial, out)
        published = True
    finally:
        if not published:
            shutil.rmtree(partial)
        if lock is not None:
            os.close(lock)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to a temporary name, force it to disk, and rename it to ``path``."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)


def sync_file(path: Path) -> None:
    """Force the content of ``path`` to disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in ``folder`` to disk, where the system lets a folder be opened."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(partial: Path, out: Path) -> None:
    old = out.with_name(f"{out.name}.partial-{os.getpid()}-replaced")
    if out.exists():
        out.rename(old)
    partial.rename(out)
    sync_folder(out.parent)
    if old.exists():
        shutil.rmtree(old)


def _remove_abandoned(out: Path) -> None:
    pattern = re.compile(re.escape(out.name) + r"\.partial-\d+(-replaced)?")
    for path in sorted(out.parent.iterdir()):
        if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            lock = _lock(path)
            try:
                shutil.rmtree(path)
            finally:
                if lock is not None:
                    os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock ``folder`` for this process; the system drops the lock when the process ends, however it ends."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise CheckpointError(
            f"{folder} is being filled by another bake; wait for it, or bake to another folder"
        ) from error
    return descriptor
