"""What a bake has finished so far, line by line: the next call goes on from there after a kill, at whatever byte."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sombrero.checkpoints.header import WeightFile
from sombrero.checkpoints.rewrite import RewrittenFile
from sombrero.checkpoints.transfer import hash_file

FORMAT = "sombrero-bake-journal"
_CHECKERS = 2


@dataclass(frozen=True)
class _Entry:
    """One finished weight file. source: what its source looked like then, see :func:`fingerprint`."""

    name: str
    source: str
    replaced_sha256: str
    sha256: str
    n_bytes: int
    energy: Mapping[str, float]
    requantized: Mapping[str, Sequence[float]]


class Journal:
    """A file of JSON lines: the identity of the bake, then one line for each file that is finished and on disk.

    A line is written whole or counts for nothing: what cannot be read ends the journal, and is cut off before the next
    line is added.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        self._identity = identity
        self._entries: dict[str, _Entry] = {}
        self._size = 0
        for entry, end in _read(path, identity):
            self._size = end
            if entry is not None:
                self._entries[entry.name] = entry

    @property
    def belongs(self) -> bool:
        """Whether the file at the path is the journal of this bake."""
        return self._size > 0

    @property
    def n_finished(self) -> int:
        """Number of files that are noted as finished."""
        return len(self._entries)

    def begin(self) -> None:
        """Start an empty journal of this bake."""
        self._entries.clear()
        self._size = 0
        self._append({"format": FORMAT, "identity": self._identity})

    def add(self, name: str, source: str, done: RewrittenFile) -> None:
        """Note that the weight file ``name`` is finished. Its content and its folder must be on disk already."""
        entry = _Entry(
            name, source, done.replaced_sha256, done.sha256, done.n_bytes, dict(done.energy), dict(done.requantized)
        )
        self._append(asdict(entry))
        self._entries[name] = entry

    def finished(self, paths: Mapping[str, Path], sources: Mapping[str, str]) -> dict[str, RewrittenFile]:
        """The noted files that are still what the journal says, hash by hash, and whose source did not change since.

        paths: weight file -> where it is now. sources: weight file -> the fingerprint of its source now.
        """
        noted = [entry for name, entry in self._entries.items() if name in paths and sources.get(name) == entry.source]
        with ThreadPoolExecutor(_CHECKERS, "bake-check") as pool:
            intact = list(pool.map(lambda entry: _is_intact(paths[entry.name], entry), noted))
        return {
            entry.name: RewrittenFile(
                entry.replaced_sha256, entry.sha256, entry.n_bytes, entry.energy, entry.requantized
            )
            for entry, kept in zip(noted, intact, strict=True)
            if kept
        }

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._path.open("r+b" if self._path.exists() else "w+b") as stream:
            stream.truncate(self._size)
            stream.seek(self._size)
            stream.write(json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
            self._size = stream.tell()


def fingerprint(path: Path, file: WeightFile) -> str:
    """Tells whether a source file was touched between two calls, without reading its data: place, size, time."""
    status = path.stat()
    return f"{path.name}:{file.size}:{file.data_begin}:{status.st_mtime_ns}"


def _is_intact(path: Path, entry: _Entry) -> bool:
    return path.is_file() and path.stat().st_size == entry.n_bytes and hash_file(path) == entry.sha256


def _read(path: Path, identity: str) -> Iterator[tuple[_Entry | None, int]]:
    """Yield the entries and the byte that each ends at, the first line as None; nothing of another's journal."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    end = 0
    for number, raw in enumerate(content.splitlines(keepends=True)):
        end += len(raw)
        try:
            line = json.loads(raw)
        except ValueError:
            return
        if not raw.endswith(b"\n") or not isinstance(line, dict):
            return
        if number == 0:
            if line != {"format": FORMAT, "identity": identity}:
                return
            yield None, end
        elif line.keys() == {field.name for field in fields(_Entry)}:
            yield _Entry(**line), end
        else:
            return
