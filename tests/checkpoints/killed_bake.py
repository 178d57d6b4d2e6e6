"""Bakes that die: run as ``python -m tests.checkpoints.killed_bake WORK SOURCE,POINT...``.

One process pays for the imports and forks a child for each job; each child bakes to ``WORK/<SOURCE's name>-<POINT>``
and is killed there. POINT is ``call-N`` (SIGKILL inside progress call N) or ``delay-N`` (SIGKILL after N milliseconds,
wherever the bake is then).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from sombrero.checkpoints import rewrite
from tests.checkpoints.bakes import bake_tiny, progress_that

rewrite.RUN_BYTES = 8 << 10  # many moves in a small file


def run(work: Path, source: Path, point: str) -> None:
    """Fork a child that bakes, and see that it ends."""
    how, number = point.split("-")
    out = work / f"{source.name}-{point}"
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked child has none of its parent's worker threads
        kill = progress_that(lambda: os.kill(os.getpid(), signal.SIGKILL), int(number))
        bake_tiny(source, out, on_progress=kill if how == "call" else None)
        os._exit(0)
    if how == "delay":
        time.sleep(int(number) / 1000)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(f"{out.name} {'killed' if os.WIFSIGNALED(status) else 'finished'}")


if __name__ == "__main__":
    for job in sys.argv[2:]:
        folder, _, where = job.rpartition(",")
        run(Path(sys.argv[1]), Path(folder), where)
