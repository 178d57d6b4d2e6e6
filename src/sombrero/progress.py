"""How the pipeline tells what it is doing. The command line draws it; a library caller may leave it silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sombrero.run_folder import guard_disk, write_json

if TYPE_CHECKING:
    from sombrero.records import TrialScore

PROGRESS = "progress.json"
"""Name of the file in a run folder that tells those who watch it which stage runs."""
NOTE_EVERY = 1.0
"""Seconds between two notes of a stage's progress, at least."""

Advance = Callable[[int], None]
"""Call with the number of items just finished."""


class Progress(Protocol):
    """What the pipeline reports to."""

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """A stage that runs while the context is open; ``total`` items where that is known."""

    def trial(self, score: TrialScore, scores: tuple[TrialScore, ...]) -> None:
        """A finished trial, with all trials so far."""

    def say(self, text: str) -> None:
        """A line worth reading."""


class Silent:
    """Progress that nobody sees."""

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """See :class:`Progress`."""
        yield lambda _count: None

    def trial(self, score: TrialScore, scores: tuple[TrialScore, ...]) -> None:
        """See :class:`Progress`."""

    def say(self, text: str) -> None:
        """See :class:`Progress`."""


class Noted:
    """Progress that also keeps ``progress.json`` up to date: the stage, how far it is, and when that was noted.

    ``stage`` is null between stages. A process that was killed leaves its last note, so ``updated`` grows old.
    """

    def __init__(self, inner: Progress, folder: Path) -> None:
        self.trial, self.say = inner.trial, inner.say
        self._inner = inner
        self._path = folder / PROGRESS
        self._note_outer: Callable[[], None] | None = None

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """See :class:`Progress`."""
        started, noted, done = time.time(), time.monotonic(), 0
        outer = self._note_outer

        def note(stage: str | None) -> None:
            with guard_disk(self._path):
                facts = {"stage": stage, "done": done, "total": total, "started": started, "updated": time.time()}
                write_json(self._path, facts)

        with self._inner.stage(title, total) as advance:

            def advance_and_note(count: int) -> None:
                nonlocal done, noted
                advance(count)
                done += count
                if time.monotonic() - noted >= NOTE_EVERY:
                    noted = time.monotonic()
                    note(title)

            note(title)
            self._note_outer = lambda: note(title)
            try:
                yield advance_and_note
            finally:
                self._note_outer = outer
                if outer is None:
                    note(None)
                else:  # a stage within another, as a model that is loaded when a stage first asks for it
                    outer()
