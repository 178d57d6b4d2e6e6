"""Copy safetensors files with some tensors edited on the way: several threads, little memory, every byte hashed.

A file is a row of moves: runs of untouched tensors, copied by the kernel, and slices of edited ones, which pass through
memory. Worker threads carry moves out; behind them, in file order, one thread of each file hashes what was written, as
it lies in the file now, and sends it on to the disk, and one hashes what an edit replaced. So each byte is hashed once
but those of edited tensors. A move is waited for before the next but few begins: a slow disk holds the readers up.

A packed weight lies in several tensors, anywhere in the file or in another one. The moves of the first of them edit it
piece by piece and write all of them; when the others' turn comes to be hashed, they are there.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sombrero.checkpoints.formats import Requantization
from sombrero.checkpoints.header import TensorEntry, WeightFile, encode_header
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.layout import Layout
from sombrero.checkpoints.packed import PackedChange, PackedNorms, PackedPart, dense_extent
from sombrero.checkpoints.plan import Plan
from sombrero.checkpoints.slices import Norms, Slice, cut, relative_energy
from sombrero.checkpoints.transfer import Flusher, copy_range, forget_range, hash_range, read_range, write_range

RUN_BYTES = 16 << 20
MOVES_AHEAD = 6
MAX_WORKERS = 4
FILES_AT_ONCE = 2
KEPT_BYTES = (32 << 20) - (1 << 16)
"""Just below the largest block that glibc learns from (DEFAULT_MMAP_THRESHOLD_MAX)."""


@dataclass(frozen=True)
class RewriteJob:
    """One weight file to rewrite: where it is, its header, where the new one goes, what lies where in it, and what else
    its header says."""

    source: Path
    file: WeightFile
    target: Path
    layout: Layout
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class RewrittenFile:
    """What came of one file: its hash, that of what was replaced in it, and per edited tensor its energy.

    replaced_sha256: over the source's own bytes, its header and its edited tensors in file order. All others are those
    of the result, so the two hashes together name the source.
    energy: ``||W' - W||_F / ||W||_F`` of the stored numbers; 0 when rounding to the stored dtype undid the edit. Of a
    packed weight each tensor whose bytes changed has the weight's. requantized: packed weight -> the five sums of its
    :class:`~sombrero.checkpoints.formats.Requantization`; of those whose numbers this file holds.
    """

    replaced_sha256: str
    sha256: str
    n_bytes: int
    energy: Mapping[str, float]
    requantized: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Elsewhere:
    """Stands for bytes of a packed weight that another move writes, or that go."""


@dataclass(frozen=True)
class Move:
    """Bytes ``begin`` to ``end`` of the source: copied as they are, or edited where there is a ``part``.

    target_begin, target_end: what is final in the new file when this and all moves before it are done, from the start
    of its data.
    """

    begin: int
    end: int
    target_begin: int
    target_end: int
    part: Slice | PackedPart | Elsewhere | None = None


def plan_moves(file: WeightFile, plan: Plan, layout: Layout) -> Iterator[Move]:
    """Yield the moves of a file: together they cover its data once, in order. Untouched neighbours move as one run."""
    packed = {entry.name: change for change in plan.packed.values() for entry in change.stored}
    run_begin, target = file.data_begin, 0
    begun: set[str] = set()
    for entry in file.tensors:
        if entry.name not in plan.dense and entry.name not in packed:
            continue
        yield from _runs(run_begin, entry.begin, target)
        target += entry.begin - run_begin
        run_begin = entry.end
        if entry.name in plan.dense:
            for part in cut(entry, plan.dense[entry.name]):
                begin, end = part.entry.begin, part.entry.end
                yield Move(begin, end, target, target + end - begin, part)
                target += end - begin
            continue
        change = packed[entry.name]
        # A dense form stands where the numbers did; else the first of the tensors in the file has the work.
        works = entry == change.stored[0] if change.new is not None else change.weight_name not in begun
        begun.add(change.weight_name)
        if works:
            yield from _packed_moves(entry, change, target)
        else:
            kept = entry.n_bytes if change.new is None else 0
            yield Move(entry.begin, entry.end, target, target + kept, Elsewhere())
        if change.new is None:
            target += entry.n_bytes
        elif works:
            target += change.new.n_bytes
    yield from _runs(run_begin, file.size, target)
    assert target + file.size - run_begin == layout.size, "the moves and the layout of a file are one"


def _packed_moves(entry: TensorEntry, change: PackedChange, target: int) -> Iterator[Move]:
    store = next(store for store in change.codec.stores if store.entry == entry)
    for piece in change.pieces():
        begin, end = store.extent(piece)
        first, last = (begin, end) if change.new is None else dense_extent(change, piece)
        part = PackedPart(change, piece)
        yield Move(entry.begin + begin, entry.begin + end, target + first, target + last, part)


def rewrite_files(
    jobs: Iterable[RewriteJob], index: CheckpointIndex, plan: Plan, on_bytes: Callable[[int], None]
) -> Iterator[tuple[RewriteJob, RewrittenFile]]:
    """Write every job's target: the tensors of its file as its layout says, with metadata added. index: the source's.

    Yields each job when its target is on disk (fsync). on_bytes is called in this thread, with the count of data bytes
    done since its last call. When the caller stops, or something fails, the threads are ended before control returns.

    Raises CheckpointError when a source ends early, NumericalError when an edited tensor is not finite, OSError when a
    file cannot be read or written.
    """
    threads = torch.get_num_threads()
    _keep_freed_memory()
    # Each worker computes alone: more workers instead, and sums that do not depend on the number of cores.
    workers = ThreadPoolExecutor(_n_workers(), "bake-move", torch.set_num_threads, (1,))
    passes: deque[_Pass] = deque()
    done: deque[_Pass] = deque()
    waiting = deque(jobs)
    try:
        while waiting or passes or done:
            while waiting and len(passes) < FILES_AT_ONCE:
                passes.append(_Pass(waiting.popleft(), index, plan, workers))
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


def _keep_freed_memory() -> None:
    """Let the allocator keep what slices free for the next ones, instead of giving it back and taking it anew.

    glibc maps blocks above a threshold and gives back what is free above twice that; it raises the threshold to the
    largest mapped block that was freed (mallopt(3), M_MMAP_THRESHOLD). At its 128 KiB every slice's memory came as new
    pages (notes/LOG.md). Elsewhere this does nothing.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)  # freed at once


class _Pass:
    """One file under way."""

    def __init__(self, job: RewriteJob, index: CheckpointIndex, plan: Plan, workers: ThreadPoolExecutor) -> None:
        self.job = job
        # Files without metadata load, but files with metadata and no format do not in every loader.
        self._header = encode_header(job.layout.header, {"format": "pt", **job.file.metadata, **job.metadata})
        self._index, self._plan = index, plan
        self._moves = plan_moves(job.file, plan, job.layout)
        self._workers = workers
        self._replaced, self._written = hashlib.sha256(), hashlib.sha256()
        self._norms: dict[str, Norms] = defaultdict(lambda: (0.0, 0.0))
        self._packed: dict[str, PackedNorms] = {}
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
        requantized: dict[str, list[float]] = {}
        for name, norms in self._packed.items():
            change = self._plan.packed[name]
            energy |= self._energies(change, norms)
            if change.stored[0].file == self.job.file.name:
                requantized[name] = norms.sums.tolist()
        size = len(self._header) + self.job.layout.size
        return RewrittenFile(self._replaced.hexdigest(), self._written.hexdigest(), size, energy, requantized)

    def _energies(self, change: PackedChange, norms: PackedNorms) -> dict[str, float]:
        energy = Requantization(change.new_format, *norms.sums.tolist()).energy
        if change.new is not None:
            return {change.new.name: energy}
        here = zip(change.stored, norms.changed, strict=True)
        return {e.name: energy if changed else 0.0 for e, changed in here if e.file == self.job.file.name}

    def stop(self) -> None:
        """End the file's own threads."""
        for pool in (self._reading, self._writing):
            pool.shutdown(wait=True, cancel_futures=True)

    def _carry(self, move: Move) -> Norms | PackedNorms | None:
        job, part = self.job, move.part
        if part is None:
            copy_range(job.source, move.begin, move.end - move.begin, job.target, self._place(move.target_begin))
            return None
        if isinstance(part, Elsewhere):
            return None
        if isinstance(part, PackedPart):
            return part.carry_out(self._read_stored, self._write_stored)
        shift = self._place(move.target_begin) - move.begin
        return part.carry_out(
            lambda begin, end: read_range(job.source, begin, end - begin),
            lambda begin, data: write_range(job.target, begin + shift, data),
        )

    def _place(self, data_position: int) -> int:
        """Position in the new file."""
        return len(self._header) + data_position

    def _read_stored(self, name: str, begin: int, end: int, /) -> bytearray:
        entry = self._index.tensors[name]
        return read_range(self._index.path(entry.file), entry.begin + begin, end - begin)

    def _write_stored(self, name: str, begin: int, data: memoryview, /) -> None:
        place = self.job.layout.begins.get(name)
        if place is not None:  # else it lies in another file, whose own moves write it
            write_range(self.job.target, self._place(place + begin), data)

    def _leave_source(self, move: Move, moved: Future[Norms | PackedNorms | None]) -> None:
        moved.result()  # its pages are in memory now, and may go when they are hashed
        if move.part is not None:
            hash_range(self.job.source, move.begin, move.end - move.begin, self._replaced)
        forget_range(self.job.source, move.begin, move.end - move.begin)

    def _hash_target(self, move: Move, moved: Future[Norms | PackedNorms | None]) -> None:
        norms, part = moved.result(), move.part
        if isinstance(norms, PackedNorms) and isinstance(part, PackedPart):
            name = part.change.weight_name
            self._packed[name] = self._packed[name] + norms if name in self._packed else norms
        elif isinstance(norms, tuple) and isinstance(part, Slice):
            changed, total = self._norms[part.entry.name]  # in file order: a sum of floats depends on it
            self._norms[part.entry.name] = changed + norms[0], total + norms[1]
        hash_range(self.job.target, self._place(move.target_begin), move.target_end - move.target_begin, self._written)
        self._flusher.advance(self._place(move.target_end))


def hash_replaced(path: Path, file: WeightFile, edited: Collection[str]) -> str:
    """``replaced_sha256`` of a source file when the tensors ``edited`` are. CheckpointError when it ends early."""
    digest = hashlib.sha256()
    hash_range(path, 0, file.data_begin, digest)
    for entry in file.tensors:
        if entry.name in edited:
            hash_range(path, entry.begin, entry.n_bytes, digest)
    return digest.hexdigest()


def _runs(begin: int, end: int, target: int) -> Iterator[Move]:
    for first in range(begin, end, RUN_BYTES):
        last = min(first + RUN_BYTES, end)
        yield Move(first, last, target + first - begin, target + last - begin)


def _n_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, min(MAX_WORKERS, cores))
