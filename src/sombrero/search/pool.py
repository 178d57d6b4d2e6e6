"""Worker processes that score trials side by side, each with a model of its own.

The run's process asks the study for points and tells it results; a worker knows neither study nor storage. So a worker
may die at any moment: its trial is a failed one, and a fresh worker takes its place.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.context import SpawnProcess
from threading import Thread
from types import TracebackType
from typing import Self

import torch

from sombrero.errors import RunError, SombreroError
from sombrero.records import EditParameters, TrialScore
from sombrero.search.objective import TrialBench
from sombrero.search.scoring import score_trial

MAX_DEATHS = 3
"""So many workers that die in a row, with no trial finished in between, are no accident."""
GRACE = 10.0
"""Seconds that a worker may take to exit after it has closed its end of the pipe."""

Pipe = connection.Connection


@dataclass
class Worker:
    """A process, our end of the pipe to it, whether its bench is made, and the trial that it scores."""

    process: SpawnProcess
    pipe: Pipe
    ready: bool = False
    task: tuple[int, EditParameters] | None = None


class WorkerPool:
    """Scores up to ``size`` trials at a time, see :class:`sombrero.search.scoring.Scorer`.

    make_bench: a picklable function that each worker calls once. n: prompts whose refusals a trial counts, for the
    record of one whose worker died. The threads of torch are divided between the workers.
    """

    def __init__(self, make_bench: Callable[[], TrialBench], size: int, n: int) -> None:
        self._make_bench, self._size, self._n = make_bench, size, n
        self._threads = max(1, torch.get_num_threads() // size)
        self._workers: list[Worker] = []
        self._deaths: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.process.kill()  # a worker writes nothing, so there is nothing that it would have to finish
        while self._workers:
            _end(self._workers.pop())

    def has_room(self) -> bool:
        """Whether a worker has made its bench and waits for a trial."""
        return any(worker.ready and worker.task is None for worker in self._workers)

    def submit(self, number: int, parameters: EditParameters, scores: tuple[TrialScore, ...]) -> None:
        """Hand a trial to a worker that waits for one."""
        worker = next(worker for worker in self._workers if worker.ready and worker.task is None)
        worker.task = (number, parameters)
        with suppress(BrokenPipeError, ConnectionResetError):  # it died since: wait() will find that
            worker.pipe.send((number, parameters, scores))

    def wait(self, wanted: int) -> TrialScore | None:
        """The next trial to be finished, or None when a worker got ready, or died before it had a trial.

        Raises RunError when workers die one after another, and what a worker raised of ours.
        """
        self._staff(wanted)
        first = connection.wait([worker.pipe for worker in self._workers])[0]
        worker = next(worker for worker in self._workers if worker.pipe is first)
        try:
            message: TrialScore | SombreroError | None = worker.pipe.recv()
        except (EOFError, OSError):  # its end is closed, maybe in the middle of a message
            return self._bury(worker)
        if isinstance(message, SombreroError):
            raise message
        if message is None:
            worker.ready = True
            return None
        worker.task = None
        self._deaths.clear()
        return message

    def _staff(self, wanted: int) -> None:
        """Start workers up to the number that there are trials for."""
        if len(self._deaths) >= MAX_DEATHS:
            raise RunError(
                f"{len(self._deaths)} worker processes died in a row without finishing a trial (the last: "
                f"{self._deaths[-1]}). Each of the {self._size} holds a model of its own, beside the run's: give "
                "search.workers a lower number (--workers), or free memory, and run the same command again; finished "
                "trials are kept"
            )
        busy = sum(worker.task is not None for worker in self._workers)
        while len(self._workers) < min(self._size, busy + wanted):
            self._start()

    def _start(self) -> None:
        context = get_context("spawn")  # a forked child can neither use CUDA nor rely on torch's threads
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._make_bench, self._threads), daemon=True)
        with _interrupts_blocked():
            process.start()
            self._workers.append(Worker(process, ours))
        theirs.close()  # so that the pipe ends when the worker does

    def _bury(self, worker: Worker) -> TrialScore | None:
        """Note a worker's death; its trial is a failed one."""
        self._workers.remove(worker)
        cause = _cause(_end(worker))
        self._deaths.append(cause)
        if worker.task is None:
            return None
        return TrialScore(*worker.task, "failed", self._n, error=f"the worker process that scored it died: {cause}")


def _end(worker: Worker) -> int:
    """Wait until the process is gone, and return its exit code; below 0 it is the signal that killed it."""
    worker.process.join(GRACE)
    if worker.process.exitcode is None:
        worker.process.kill()
        worker.process.join()
    worker.pipe.close()
    code = worker.process.exitcode
    assert code is not None, "a joined process has an exit code"
    worker.process.close()
    return code


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}, its traceback stands in standard error"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C, which goes to all processes of a terminal, from a child that is started in here: we stop it.

    A child inherits the mask, so not even its imports can be interrupted.
    """
    resource_tracker.ensure_running()  # started later, along with the child, it would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Pipe, make_bench: Callable[[], TrialBench], threads: int) -> None:
    """All that a worker does: make the bench, say so, then score what it is given. Errors of ours go to the run."""
    Thread(target=_end_with_the_run, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        bench = make_bench()
        pipe.send(None)
        while True:
            pipe.send(score_trial(bench, *pipe.recv()))
    except SombreroError as error:
        pipe.send(error)


def _end_with_the_run() -> None:
    """Exit as soon as the run's process is gone, however it went and whatever this one is doing."""
    run = parent_process()
    assert run is not None, "a worker is started by a run"
    run.join()
    os._exit(1)
