"""Kill bakes at random moments with SIGKILL, again and again: is there ever a loadable half, and is the end the same?

Each round bakes to a folder of its own: it is killed one to three times, each time at a moment drawn over the length of
an uninterrupted bake, and then left to finish. A child is forked from this process, which has paid for the imports.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from bake_checkpoints import Llama, make_edit, write_checkpoint
from sombrero.checkpoints import CheckpointIndex, bake, read_record
from sombrero.checkpoints.record import check_files
from sombrero.checkpoints.staging import Staging
from sombrero.errors import CheckpointError

SMALL = Llama(layers=6, width=256, hidden=768, heads=4, key_value_heads=2, vocabulary=4000, shard_bytes=2_000_000)
MOST_IN_A_ROW = 3


@dataclass(frozen=True)
class Kills:
    """Bakes started to be killed, those that were before they ended, after how many of these there were finished files
    to go on from, or the result; and what went wrong."""

    started: int
    killed: int
    resumed: int
    published: int
    loadable_halves: int
    other_results: int
    bake_seconds: float


def kill_bakes(work: Path, kills: int, seed: int = 0) -> Kills:
    """Kill ``kills`` running bakes of a small sharded checkpoint in ``work``."""
    draw = random.Random(seed)
    source = work / "small"
    write_checkpoint(SMALL, source)
    began = time.perf_counter()
    _bake(source, work / "reference")
    seconds = time.perf_counter() - began
    expected = _tree(work / "reference")
    killed = resumed = published = halves = others = started = 0
    while killed < kills:
        out = work / "killed"
        for _ in range(draw.randint(1, MOST_IN_A_ROW)):
            started += 1
            hit = killed < kills and _kill(source, out, draw.uniform(0, seconds))
            if not hit:
                break  # it was done before
            killed += 1
            halves += _is_loadable_half(out, expected)
            journal = Staging(out).journal
            resumed += journal.exists() and journal.read_bytes().count(b"\n") > 1
            published += out.exists()
        _bake(source, out)
        others += _tree(out) != expected or Staging(out).root.exists()
        shutil.rmtree(out)
    return Kills(started, killed, resumed, published, halves, others, seconds)


def _bake(source: Path, out: Path) -> None:
    writers = SMALL.writers()
    bake(source, make_edit(writers), writers, out, provenance={"base": "small"})


def _kill(source: Path, out: Path, after: float) -> bool:
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked child has none of its parent's threads
        _bake(source, out)
        os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _is_loadable_half(out: Path, expected: dict[str, str]) -> bool:
    """Whether a loader would take anything that is there for a checkpoint, though it is not the whole one."""
    for folder in (out, Staging(out).root, Staging(out).model):
        if not folder.exists() or (folder != out and not any(folder.iterdir())):
            continue
        try:
            CheckpointIndex.read(folder)
        except CheckpointError:
            if folder == out:
                return True
            continue
        try:
            check_files(folder, read_record(folder)["files"])
        except CheckpointError:
            return True
        if _tree(folder) != expected:
            return True
    return False


def _tree(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}
