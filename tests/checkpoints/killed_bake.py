"""Bakes that die: run as ``python -m tests.checkpoints.killed_bake HOW SOURCE WORK POINT...``.

One process pays for the imports and forks a child for each point; each child bakes to ``WORK/<point>`` and is killed
there. HOW is ``call`` (SIGKILL inside the progress call of that number) or ``delay`` (SIGKILL after so many
milliseconds, wherever the bake is then).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from tests.checkpoints.bakes import bake_tiny, progress_that


def run(how: str, source: Path, out: Path, point: float) -> None:
    """Fork a child that bakes, and see that it ends."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked child has none of its parent's worker threads
        kill = progress_that(lambda: os.kill(os.getpid(), signal.SIGKILL), int(point))
        bake_tiny(source, out, on_progress=kill if how == "call" else None)
        os._exit(0)
    if how == "delay":
        time.sleep(point / 1000)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(f"{point:g} {'killed' if os.WIFSIGNALED(status) else 'finished'}")


if __name__ == "__main__":
    for text in sys.argv[4:]:
        run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) / text, float(text))
