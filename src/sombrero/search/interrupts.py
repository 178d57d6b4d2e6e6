"""Ctrl-C while a library is in the middle of its own locks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let what runs in here end before Ctrl-C takes effect; a second Ctrl-C does not wait.

    A database library that is broken off anywhere may print tracebacks of its clean-up, or never let go of a lock.
    Only the main thread receives signals; in others nothing needs to wait.
    """
    before = signal.getsignal(signal.SIGINT)
    if current_thread() is not main_thread() or not callable(before):
        yield
        return
    seen = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if seen == 1:
            signal.raise_signal(signal.SIGINT)
