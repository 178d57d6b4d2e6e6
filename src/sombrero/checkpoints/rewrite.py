"""Copy safetensors files with some tensors edited on the way: several threads, little memory, every byte hashed.

A file is a row of moves: runs of untouched tensors, copied by the kernel, and slices of edited ones, which pass through
memory. Worker threads carry moves out; behind them, in file order, one thread of each file hashes what was written, as
it lies in the file now, and sends it on to the disk, and one hashes what an edit replaced. So each byte is hashed once
but those of edited tensors. A move is waited for before the next but few begins: a slow disk holds the readers up.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from sombrero.checkpoints.header import WeightFile, encode_header
from sombrero.checkpoints.plan import TensorEdit
from sombrero.checkpoints.slices import Norms, Slice, cut, relative_energy
from sombrero.checkpoints.transfer import Flusher, copy_range, forget_range, hash_range, read_range, write_range

RUN_BYTES = 16 << 20
MOVES_AHEAD = 6
MAX_WORKERS = 4
FILES_AT_ONCE = 2


@dataclass(frozen=True)
class RewriteJob:
    """One weight file to rewrite: where it is, its header, where the new one goes, and what else its header says."""

    source: Path
    file: WeightFile
    target: Path
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class RewrittenFile:
    """What came of one file: its hash, that of what was replaced in it, and per edited tensor its energy.

    replaced_sha256: over the source's own bytes, its header and its edited tensors in file order. All others are those
    of the result, so the two hashes together name the source.
    energy: ``||W' - W||_F / ||W||_F`` of the stored numbers; 0 when rounding to the stored dtype undid the edit.
    """

    replaced_sha256: str
    sha256: str
    n_bytes: int
    energy: Mapping[str, float]


@dataclass(frozen=True)
class Move:
    """Bytes ``begin`` to ``end`` of the source: copied as they are, or edited where there is a ``part``."""

    begin: int
    end: int
    part: Slice | None = None


def plan_moves(file: WeightFile, edits: Mapping[str, TensorEdit]) -> Iterator[Move]:
    """Yield the moves of a file: together they cover its data once, in order. Untouched neighbours move as one run."""
    run_begin = file.data_begin
    for entry in file.tensors:
        if entry.name in edits:
            yield from _runs(run_begin, entry.begin)
            yield from (Move(part.entry.begin, part.entry.end, part) for part in cut(entry, edits[entry.name]))
            run_begin = entry.end
    yield from _runs(run_begin, file.size)


def rewrite_files(
    jobs: Iterable[RewriteJob], edits: Mapping[str, TensorEdit], on_bytes: Callable[[int], None]
) -> Iterator[tuple[RewriteJob, RewrittenFile]]:
    """Write every job's target: the tensors of its file in the same order, dtypes and shapes, with metadata added.

    Yields each job when its target is on disk (fsync). on_bytes is called in this thread, with the count of data bytes
    done since its last call. When the caller stops, or something fails, the threads are ended before control returns.

    Raises CheckpointError when a source ends early, NumericalError when an edited tensor is not finite, OSError when a
    file cannot be read or written.
    """
    threads = torch.get_num_threads()
    # Each worker computes alone: more workers instead, and sums that do not depend on the number of cores.
    workers = ThreadPoolExecutor(_n_workers(), "bake-move", torch.set_num_threads, (1,))
    passes: deque[_Pass] = deque()
    done: deque[_Pass] = deque()
    waiting = deque(jobs)
    try:
        while waiting or passes or done:
            while waiting and len(passes) < FILES_AT_ONCE:
                passes.append(_Pass(waiting.popleft(), edits, workers))
            for item in list(passes):
                on_bytes(item.advance())
                if item.finished:
                    passes.remove(item)
                    done.append(item)
            while done and (done[0].on_disk or not passes or len(done) > FILES_AT_ONCE):
                item = done.popleft()
                yield item.job, item.result()
    finally:
        workers.shutdown(wait=True, cancel_futures=True)
        for item in (*passes, *done):
            item.stop()
        torch.set_num_threads(threads)


class _Pass:
    """One file under way."""

    def __init__(self, job: RewriteJob, edits: Mapping[str, TensorEdit], workers: ThreadPoolExecutor) -> None:
        self.job = job
        # Files without metadata load, but files with metadata and no format do not in every loader.
        self._header = encode_header(job.file.header, {"format": "pt", **job.file.metadata, **job.metadata})
        self._shift = len(self._header) - job.file.data_begin
        self._moves = plan_moves(job.file, edits)
        self._workers = workers
        self._replaced, self._written = hashlib.sha256(), hashlib.sha256()
        self._norms: dict[str, Norms] = defaultdict(lambda: (0.0, 0.0))
        self._flusher = Flusher(job.target)
        self._ahead: deque[tuple[int, Future[None], Future[None]]] = deque()
        self._end: Future[None] | None = None
        job.target.write_bytes(self._header)
        self._reading = ThreadPoolExecutor(1, "bake-hash-source")
        self._writing = ThreadPoolExecutor(1, "bake-hash-target")
        self._begin = self._reading.submit(hash_range, job.source, 0, job.file.data_begin, self._replaced)
        self._written.update(self._header)

    @property
    def finished(self) -> bool:
        """All moves are done and hashed; the end is on its way to disk."""
        return self._end is not None

    @property
    def on_disk(self) -> bool:
        return self._end is not None and self._end.done()

    def advance(self) -> int:
        """Begin one more move, and wait for the oldest when there are enough; return the bytes that became final."""
        move = next(self._moves, None)
        if move is not None:
            moved = self._workers.submit(self._carry, move)
            read = self._reading.submit(self._leave_source, move, moved)
            self._ahead.append((move.end - move.begin, read, self._writing.submit(self._hash_target, move, moved)))
        n_bytes = 0
        while self._ahead and (move is None or len(self._ahead) > MOVES_AHEAD):
            size, *hashed = self._ahead.popleft()
            for future in hashed:
                future.result()
            n_bytes += size
            if move is None and self._ahead:
                return n_bytes
        if move is None:
            self._end = self._writing.submit(self._flusher.finish)
        return n_bytes

    def result(self) -> RewrittenFile:
        """Wait until the file is on disk."""
        assert self._end is not None
        try:
            self._begin.result()
            self._end.result()
        finally:
            self.stop()
        energy = {name: relative_energy(*norms) for name, norms in self._norms.items()}
        size = len(self._header) + self.job.file.size - self.job.file.data_begin
        return RewrittenFile(self._replaced.hexdigest(), self._written.hexdigest(), size, energy)

    def stop(self) -> None:
        """End the file's own threads."""
        for pool in (self._reading, self._writing):
            pool.shutdown(wait=True, cancel_futures=True)

    def _carry(self, move: Move) -> Norms | None:
        job, size = self.job, move.end - move.begin
        if move.part is None:
            copy_range(job.source, move.begin, size, job.target, move.begin + self._shift)
            return None
        return move.part.carry_out(
            lambda begin, end: read_range(job.source, begin, end - begin),
            lambda begin, data: write_range(job.target, begin + self._shift, data),
        )

    def _leave_source(self, move: Move, moved: Future[Norms | None]) -> None:
        moved.result()  # its pages are in memory now, and may go when they are hashed
        if move.part is not None:
            hash_range(self.job.source, move.begin, move.end - move.begin, self._replaced)
        forget_range(self.job.source, move.begin, move.end - move.begin)

    def _hash_target(self, move: Move, moved: Future[Norms | None]) -> None:
        norms = moved.result()
        if norms is not None and move.part is not None:
            name = move.part.entry.name
            changed, total = self._norms[name]  # in file order: a sum of floats depends on it
            self._norms[name] = changed + norms[0], total + norms[1]
        begin = move.begin + self._shift
        hash_range(self.job.target, begin, move.end - move.begin, self._written)
        self._flusher.advance(move.end + self._shift)


def hash_replaced(path: Path, file: WeightFile, edited: Collection[str]) -> str:
    """``replaced_sha256`` of a source file when the tensors ``edited`` are. CheckpointError when it ends early."""
    digest = hashlib.sha256()
    hash_range(path, 0, file.data_begin, digest)
    for entry in file.tensors:
        if entry.name in edited:
            hash_range(path, entry.begin, entry.n_bytes, digest)
    return digest.hexdigest()


def _runs(begin: int, end: int) -> Iterator[Move]:
    for first in range(begin, end, RUN_BYTES):
        yield Move(first, min(first + RUN_BYTES, end))


def _n_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, min(MAX_WORKERS, cores))
