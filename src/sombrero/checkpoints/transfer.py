"""Move bytes between files: by the kernel where it can, and without filling memory with pages on their way to disk."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sombrero.errors import CheckpointError

CHUNK_BYTES = 4 << 20
FLUSH_BYTES = 32 << 20
"""A file that is being written is sent to the disk in steps of this size; three of them are on their way at most."""

# What a system answers when it cannot copy between these two files; anything else is an error of the copy itself.
_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ETXTBSY, errno.EPERM)
_START_AND_FINISH = 1 | 2 | 4  # sync_file_range(2): wait for what is being written, write the rest, wait for that
_START = 2


class Digest(Protocol):
    """What hashlib's objects can do here."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor of ``path``, closed in the end."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_range(path: Path, begin: int, n_bytes: int) -> bytearray:
    """Return ``n_bytes`` of ``path`` from byte ``begin``; CheckpointError when the file ends before."""
    raw = bytearray(n_bytes)
    view, position = memoryview(raw), 0
    with opened(path, os.O_RDONLY) as descriptor:
        while position < n_bytes:
            count = os.preadv(descriptor, [view[position:]], begin + position)
            if not count:
                raise _ended(path, n_bytes - position)
            position += count
    return raw


def write_range(path: Path, begin: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data`` into the existing file ``path`` at byte ``begin``."""
    view = memoryview(data).cast("B")
    with opened(path, os.O_WRONLY) as descriptor:
        while view:
            written = os.pwrite(descriptor, view, begin)
            view, begin = view[written:], begin + written


def copy_range(source: Path, begin: int, n_bytes: int, target: Path, target_begin: int) -> None:
    """Copy ``n_bytes`` of ``source`` from ``begin`` into the existing file ``target`` at ``target_begin``.

    By ``copy_file_range`` (which shares blocks on file systems that can), else ``sendfile``, else through memory.
    Raises CheckpointError when the source ends before, OSError when a file cannot be read or written.
    """
    with opened(source, os.O_RDONLY) as reader, opened(target, os.O_WRONLY) as writer:
        done = 0
        for step in _WAYS:
            try:
                while done < n_bytes:
                    count = step(reader, begin + done, n_bytes - done, writer, target_begin + done)
                    if not count:
                        break  # the end of the source, or a file system that says so; reading tells
                    done += count
            except OSError as error:
                if error.errno not in _CANNOT_COPY or step is _WAYS[-1]:
                    raise
            if done == n_bytes:
                return
        raise _ended(source, n_bytes - done)


def hash_range(path: Path, begin: int, n_bytes: int, digest: Digest) -> None:
    """Feed ``n_bytes`` of ``path`` from ``begin`` to ``digest``; CheckpointError when the file ends before."""
    buffer = memoryview(bytearray(min(CHUNK_BYTES, n_bytes)))
    with opened(path, os.O_RDONLY) as descriptor:
        while n_bytes > 0:
            count = os.preadv(descriptor, [buffer[:n_bytes]], begin)
            if not count:
                raise _ended(path, n_bytes)
            digest.update(buffer[:count])
            begin, n_bytes = begin + count, n_bytes - count


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def forget_range(path: Path, begin: int, n_bytes: int) -> None:
    """Let the system drop the clean pages of a range: they will not be read again."""
    if n_bytes > 0 and hasattr(os, "posix_fadvise"):
        with opened(path, os.O_RDONLY) as descriptor:
            os.posix_fadvise(descriptor, begin, n_bytes, os.POSIX_FADV_DONTNEED)


class Flusher:
    """Sends a growing file to disk behind its writer, so that few of its pages wait in memory.

    ``advance(end)``: all bytes before ``end`` are final. Each step is started at once, and waited for when the next but
    one begins: the disk is never idle, and a writer that is faster than the disk is held up here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = 0
        self._finished = 0

    def advance(self, end: int) -> None:
        """Start what is new, when it is a step's worth, and wait for what is two steps old."""
        if end - self._started < FLUSH_BYTES:
            return
        _sync_range(self._path, self._started, end - self._started, _START)
        behind = self._started - FLUSH_BYTES
        self._started = end
        if behind > self._finished:
            _sync_range(self._path, self._finished, behind - self._finished, _START_AND_FINISH)
            forget_range(self._path, self._finished, behind - self._finished)
            self._finished = behind

    def finish(self) -> None:
        """Force the whole file to disk (fsync) and drop its pages."""
        with opened(self._path, os.O_RDWR) as descriptor:
            os.fsync(descriptor)
        forget_range(self._path, self._finished, os.stat(self._path).st_size - self._finished)


def _copy_by_kernel(reader: int, begin: int, n_bytes: int, writer: int, target_begin: int) -> int:
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, "no copy_file_range")
    return os.copy_file_range(reader, writer, n_bytes, begin, target_begin)


def _copy_by_sendfile(reader: int, begin: int, n_bytes: int, writer: int, target_begin: int) -> int:
    if not hasattr(os, "sendfile"):
        raise OSError(errno.ENOSYS, "no sendfile")
    os.lseek(writer, target_begin, os.SEEK_SET)
    return os.sendfile(writer, reader, begin, n_bytes)


def _copy_by_memory(reader: int, begin: int, n_bytes: int, writer: int, target_begin: int) -> int:
    chunk = memoryview(os.pread(reader, min(n_bytes, CHUNK_BYTES), begin))
    return os.pwrite(writer, chunk, target_begin) if chunk else 0


_WAYS: tuple[Callable[[int, int, int, int, int], int], ...] = (_copy_by_kernel, _copy_by_sendfile, _copy_by_memory)


def _sync_range(path: Path, begin: int, n_bytes: int, flags: int) -> None:
    """sync_file_range(2), where the system has it; a failed write is reported by the fsync in the end."""
    function = _sync_file_range()
    if function is not None:
        with opened(path, os.O_RDWR) as descriptor:
            function(descriptor, begin, n_bytes, flags)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function  # type: ignore[no-any-return]


def _ended(source: Path, missing: int) -> CheckpointError:
    return CheckpointError(f"{source} ended {missing} bytes early while it was read; it changed, or fetch it again")
