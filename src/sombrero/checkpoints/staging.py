"""Build a folder beside its final place, and put it there in one rename: either all of it is seen, or none of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sombrero.errors import CheckpointError

if sys.platform != "win32":
    import fcntl

UNFINISHED = ".unfinished"
"""Suffix of a file whose content is complete only when it is renamed."""


@dataclass(frozen=True)
class Staging:
    """``<out>.partial``: ``model`` is filled and becomes ``out``; ``journal`` says what in it is finished."""

    out: Path

    @property
    def root(self) -> Path:
        """The folder that holds all of it."""
        return self.out.with_name(f"{self.out.name}.partial")

    @property
    def model(self) -> Path:
        """The folder that becomes ``out``."""
        return self.root / "model"

    @property
    def journal(self) -> Path:
        """A file beside it, which is not published."""
        return self.root / "journal.jsonl"

    @property
    def replaced(self) -> Path:
        """Where a complete folder at ``out`` steps aside to."""
        return self.root / "replaced"

    def publish(self, *, replace: bool) -> None:
        """Rename ``model`` to ``out``; what is there steps aside first and is deleted with the rest of the staging.

        Raises CheckpointError when ``out`` was filled meanwhile, and ``replace`` is false.
        """
        for folder in [self.model, *(path for path in self.model.rglob("*") if path.is_dir())]:
            sync_folder(folder)
        if self.out.exists():
            if not replace and any(self.out.iterdir()):
                raise CheckpointError(f"{self.out} was filled while it was baked; give another folder, or overwrite it")
            self.out.rename(self.replaced)
        try:
            self.model.rename(self.out)
        except OSError:
            self.restore()
            raise
        sync_folder(self.out.parent)

    def restore(self) -> None:
        """Put back the folder that stepped aside, when nothing took its place."""
        if self.replaced.exists() and not self.out.exists():
            self.replaced.rename(self.out)

    def remove(self) -> None:
        """Delete all of it, but the folder that stepped aside for nothing."""
        self.restore()
        shutil.rmtree(self.root)


@contextmanager
def staged_folder(out: Path) -> Iterator[Staging]:
    """Give the staging of ``out``, locked for this process, with what an earlier process left in it.

    A folder that stepped aside just before a kill is put back first. Nothing is removed on exit. Raises
    CheckpointError while another process fills ``out``.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Staging(out)
    lock = _lock(staging.root)
    try:
        staging.restore()
        staging.model.mkdir(exist_ok=True)
        yield staging
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def whole_folder(out: Path, *, replace: bool) -> Iterator[Path]:
    """Give an empty folder to fill in one go: it becomes ``out`` when the block ends, and is removed when it fails."""
    with staged_folder(out) as staging:
        shutil.rmtree(staging.model)
        staging.model.mkdir()
        try:
            yield staging.model
            staging.publish(replace=replace)
        finally:
            staging.remove()


def restore_replaced(out: Path) -> None:
    """Put back a folder that stepped aside from ``out`` just before its process was killed."""
    if Staging(out).replaced.exists() and not out.exists():
        with staged_folder(out):
            return


def remove_abandoned(out: Path) -> None:
    """Remove what a process that is gone left of a bake to ``out``; what another one is filling stays."""
    if Staging(out).root.is_dir():
        try:
            with staged_folder(out) as staging:
                staging.remove()
        except CheckpointError:
            return  # it is in use, so it is not abandoned


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


def _lock(folder: Path) -> int | None:
    """Make and lock ``folder`` for this process; the system drops the lock when the process ends, however it ends."""
    folder.mkdir(exist_ok=True)
    if sys.platform == "win32":
        return None
    while True:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise CheckpointError(
                f"{folder} is being filled by another bake; wait for it, or bake to another folder"
            ) from error
        # The process that held it may have removed it between our two calls: then the lock is on nothing.
        folder.mkdir(exist_ok=True)
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)
