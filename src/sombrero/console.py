"""Progress in the terminal: bars with rate and time left; plain lines where there is no terminal. All on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from sombrero.progress import Advance

if TYPE_CHECKING:
    from sombrero.records import TrialScore


class Terminal:
    """A :class:`sombrero.progress.Progress` for people."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Draw a bar while the stage runs, and leave one line with its time behind."""
        started = time.monotonic()
        if not self._console.is_terminal:
            yield lambda _count: None
        else:
            with self._progress() as bars:
                self._bars = bars
                task = bars.add_task(title, total=total)
                try:
                    yield lambda count: bars.advance(task, count)
                finally:
                    self._bars = None
        self.say(f"{title}: {time.monotonic() - started:.1f} s")

    def trial(self, score: TrialScore, scores: tuple[TrialScore, ...]) -> None:
        """A line for each trial; a star marks one that is on the front of refusals and KL."""
        from sombrero.search import pareto_front

        star = "[bold yellow]★[/]" if score in pareto_front(scores) else " "
        kl = "KL    –  " if score.kl is None else f"KL {score.kl:6.3f}"
        if score.state == "failed":
            outcome = f"[red]failed[/] {escape(score.error or '')}"
        elif score.refusals is None:
            outcome = f"refusals [dim]≈{score.predicted_refusals:3d}[/]/{score.n}  {kl}  [dim]screened out[/]"
        else:
            lost = f"  lost {score.lost:2d}/{score.n_true}" if score.n_true else ""
            broken = f"  [dim]{score.faults} not answered[/]" if score.faults else ""
            outcome = f"refusals  {score.refusals:3d}/{score.n}  {kl}{lost}{broken}"
        where = score.parameters
        units = "single" if where.directions == "single" else "units " + "+".join(map(str, where.units))
        self._print(f"{star} trial {score.number:3d}  {outcome}  [dim]{where.rule}, {units}[/]")

    def say(self, text: str) -> None:
        """A plain line."""
        self._print(escape(text))

    def _print(self, markup: str) -> None:
        (self._bars.console if self._bars else self._console).print(markup, highlight=False, soft_wrap=True)

    def _progress(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )


class _Rate(ProgressColumn):
    """Items a second, or seconds an item where that is slower."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="progress.data.speed")
