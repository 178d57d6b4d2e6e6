"""Who scores a study's trials: this process, one after another, or a pool of workers (:mod:`sombrero.search.pool`)."""

from __future__ import annotations

from math import isnan
from types import TracebackType
from typing import Protocol, Self

from sombrero.errors import NumericalError
from sombrero.records import EditParameters, TrialScore
from sombrero.search.front import beaten_at, may_enter_front
from sombrero.search.objective import TrialBench, complete, count_lost, screen


def score_trial(
    bench: TrialBench, number: int, parameters: EditParameters, scores: tuple[TrialScore, ...]
) -> TrialScore:
    """Screen an edit, and generate where it could enter the front of ``scores``. A broken edit is a failed trial.

    Everything but the bench can be pickled, so that any process with such a bench can do it.
    """
    try:
        candidate = screen(bench, number, parameters)
    except NumericalError as error:
        return TrialScore(number, parameters, "failed", len(bench.harmful), error=str(error))
    if any(value is None or isnan(value) for value in (candidate.kl, candidate.log_odds)):
        return TrialScore(number, parameters, "failed", len(bench.harmful), error="the edited model gives NaN logits")
    if not may_enter_front(candidate, scores):
        return candidate
    if bench.true:
        candidate = count_lost(bench, candidate)
    return complete(bench, candidate, beaten_at=beaten_at(candidate, scores))


class Scorer(Protocol):
    """Scores trials, as many at a time as it has room for. What it holds is let go when its context ends."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def has_room(self) -> bool:
        """Whether a trial can be handed in now."""

    def submit(self, number: int, parameters: EditParameters, scores: tuple[TrialScore, ...]) -> None:
        """Hand in a trial, with the scores that its own is held against. Only where there is room."""

    def wait(self, wanted: int) -> TrialScore | None:
        """The next trial to be finished, or None where there is room only now; ``wanted`` more will be handed in."""


class SerialScorer:
    """Scores one trial at a time, in this process."""

    def __init__(self, bench: TrialBench) -> None:
        self._bench = bench
        self._task: tuple[int, EditParameters, tuple[TrialScore, ...]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task = None

    def has_room(self) -> bool:
        """See :class:`Scorer`."""
        return self._task is None

    def submit(self, number: int, parameters: EditParameters, scores: tuple[TrialScore, ...]) -> None:
        """See :class:`Scorer`."""
        self._task = (number, parameters, scores)

    def wait(self, wanted: int) -> TrialScore | None:
        """See :class:`Scorer`."""
        assert self._task is not None, "nothing was handed in"
        task, self._task = self._task, None
        return score_trial(self._bench, *task)
