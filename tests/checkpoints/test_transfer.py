"""Bytes arrive whole by every way that a system offers, and a source that ends early is an error."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from sombrero.checkpoints import transfer
from sombrero.checkpoints.transfer import Flusher, copy_range, hash_file, hash_range, read_range, write_range
from sombrero.errors import CheckpointError

WAYS = pytest.mark.parametrize("way", range(len(transfer._WAYS)))


@WAYS
def test_every_way_copies_the_same_bytes(way: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(300_001)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(b"")
    monkeypatch.setattr(transfer, "_WAYS", (transfer._WAYS[way],))
    for begin in (200_000, 7, 0):  # in any order
        copy_range(tmp_path / "a", begin, 100_001, tmp_path / "b", 8 + begin)
    copied = (tmp_path / "b").read_bytes()
    assert copied[8:100_009] == content[:100_001] and copied[200_008:] == content[200_000:]
    with pytest.raises(CheckpointError, match="ended 1 bytes early"):
        copy_range(tmp_path / "a", 0, 300_002, tmp_path / "b", 0)


def test_a_way_that_is_refused_half_way_is_followed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(50_000)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(b"")

    def refuse(reader: int, begin: int, n_bytes: int, writer: int, target_begin: int) -> int:
        if begin >= 20_000:
            raise OSError(errno.EXDEV, "another device")
        return os.pwrite(writer, os.pread(reader, min(n_bytes, 10_000), begin), target_begin)

    monkeypatch.setattr(transfer, "_WAYS", (refuse, *transfer._WAYS[1:]))
    copy_range(tmp_path / "a", 0, 50_000, tmp_path / "b", 0)
    assert (tmp_path / "b").read_bytes() == content


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")
def test_between_file_systems(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    other = Path("/dev/shm") / f"sombrero-{os.getpid()}"
    try:
        other.write_bytes(content)
        (tmp_path / "b").write_bytes(b"")
        copy_range(other, 1, 99_999, tmp_path / "b", 0)
        assert (tmp_path / "b").read_bytes() == content[1:]
    finally:
        other.unlink()


def test_a_copy_that_the_disk_refuses_is_not_tried_another_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    with pytest.raises(FileNotFoundError):
        copy_range(tmp_path / "a", 0, 100, tmp_path / "none", 0)
    with pytest.raises(OSError, match="No space"):
        copy_range(tmp_path / "a", 0, 100, Path("/dev/full"), 0)


def test_ranges_are_read_written_and_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1000)
    content = os.urandom(5_500)
    path = tmp_path / "a"
    path.write_bytes(b"\0" * 5_500)
    write_range(path, 100, content[100:])
    write_range(path, 0, bytearray(content[:100]))
    assert read_range(path, 17, 5_000) == content[17:5_017]
    digest = hashlib.sha256()
    hash_range(path, 3, 4_321, digest)
    assert digest.hexdigest() == hashlib.sha256(content[3:4_324]).hexdigest()
    assert hash_file(path) == hashlib.sha256(content).hexdigest()
    for early in (lambda: read_range(path, 5_000, 501), lambda: hash_range(path, 5_000, 501, digest)):
        with pytest.raises(CheckpointError, match="ended"):
            early()


def test_a_flushed_file_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FLUSH_BYTES", 10_000)
    content = os.urandom(95_000)
    path = tmp_path / "a"
    path.write_bytes(b"")
    flusher = Flusher(path)
    for begin in range(0, len(content), 4_000):
        write_range(path, begin, content[begin : begin + 4_000])
        flusher.advance(min(begin + 4_000, len(content)))
    flusher.finish()
    assert path.read_bytes() == content
