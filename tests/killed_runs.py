"""Runs that die: ``python -m tests.killed_runs CONFIG WORK MOMENT...``, CONFIG a JSON file of a :class:`RunConfig`.

One process pays for the imports and forks a child for each moment; the child runs in ``WORK/<number of the moment>``
and is killed (SIGKILL) as soon as the moment has come. A moment is ``stage=NAME``: the stage stands in run.json;
``trials=N``: N trials stand in trials.jsonl; ``file=GLOB``: such a path exists in the run folder; ``entered=TITLE``:
the child has just entered the progress stage of that title, and kills itself there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sombrero import verbs
from sombrero.config import RunConfig
from sombrero.progress import Advance, Silent


class Suicide(Silent):
    """Progress that kills its process when a stage is entered."""

    def __init__(self, title: str) -> None:
        self._title = title

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """See :class:`sombrero.progress.Progress`."""
        if title.startswith(self._title):
            os.kill(os.getpid(), signal.SIGKILL)
        yield lambda _count: None


def has_come(moment: str, folder: Path) -> bool:
    """Whether the run in ``folder`` has got that far."""
    kind, _, value = moment.partition("=")
    if kind == "stage":
        manifest = folder / "run.json"
        return manifest.is_file() and value in json.loads(manifest.read_bytes())["stages"]
    if kind == "trials":
        trials = folder / "trials.jsonl"
        return trials.is_file() and len(trials.read_text(encoding="utf-8").splitlines()) >= int(value)
    return kind == "file" and any(folder.glob(value))


def run(config: RunConfig, folder: Path, moment: str) -> None:
    """Fork a child that runs, kill it when the moment comes, and say whether it was still running."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked child has none of its parent's worker threads
        kind, _, value = moment.partition("=")
        verbs.run(config, folder, progress=Suicide(value) if kind == "entered" else None)
        os._exit(0)
    ended, status = 0, 0
    while not ended:
        if has_come(moment, folder):
            os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, 0)
        else:
            time.sleep(0.0005)
            ended, status = os.waitpid(child, os.WNOHANG)
    print(f"{folder.name} {'killed' if os.WIFSIGNALED(status) else 'finished'}", flush=True)


def warm_up(config: RunConfig, folder: Path) -> None:
    """A short run in this process: whatever is imported on the way is there for every child."""
    torch.set_num_threads(1)
    verbs.run(config.model_copy(update={"search": config.search.model_copy(update={"trials": 1})}), folder)


if __name__ == "__main__":
    settings, work = RunConfig.model_validate_json(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
    warm_up(settings, work / "warm-up")
    for number, when in enumerate(sys.argv[3:]):
        run(settings, work / str(number), when)
