"""How the pipeline tells what it is doing. The command line draws it; a library caller may leave it silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sombrero.records import TrialScore

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
