"""Progress in the terminal: the stage's bar with rate and time left, above the front so far. All on stderr.

Where there is no terminal, all that is left are plain lines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from sombrero.progress import Advance
from sombrero.safe_text import printable

if TYPE_CHECKING:
    from sombrero.config import SearchConfig
    from sombrero.records import TrialScore

FRONT_SHOWN = 8
"""Rows of the front below the bar; the lines of the trials above it have them all."""


class Terminal:
    """A :class:`sombrero.progress.Progress` for people. ``search``: by what the pick of the trials is made."""

    def __init__(self, console: Console, search: SearchConfig | None = None) -> None:
        self._console = console
        self._search = search
        self._bars: Progress | None = None
        self._front: Table | None = None

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Draw a bar while the stage runs, and leave one line with its time behind."""
        started = time.monotonic()
        if not self._console.is_terminal:
            yield lambda _count: None
        else:
            outer = self._bars
            bars = outer or self._progress()
            task = bars.add_task(title, total=total)
            live = Live(get_renderable=lambda: self._view(bars), console=self._console, transient=True)
            with live if outer is None else nullcontext():  # a stage within another has its bar below that one's
                self._bars = bars
                try:
                    yield lambda count: bars.advance(task, count)
                finally:
                    self._bars = outer
                    bars.remove_task(task)
        self.say(f"{title}: {time.monotonic() - started:.1f} s")

    def _view(self, bars: Progress) -> Group:
        return Group(bars) if self._front is None else Group(bars, self._front)

    def trial(self, score: TrialScore, scores: tuple[TrialScore, ...]) -> None:
        """A line for each trial; a star marks one that is on the front of refusals and KL. Below, the front grows."""
        from sombrero.search import pareto_front

        if self._console.is_terminal:
            self._front = front_table(scores, self._search)
        star = "[bold yellow]★[/]" if score in pareto_front(scores) else " "
        kl = f"KL {_kl(score)}"
        if score.state == "failed":
            outcome = f"[red]failed[/] {escape(printable(score.error or ''))}"
        elif score.refusals is None:
            outcome = f"refusals [dim]≈{score.predicted_refusals:3d}[/]/{score.n}  {kl}  [dim]screened out[/]"
        else:
            lost = f"  lost {score.lost:2d}/{score.n_true}" if score.n_true else ""
            broken = f"  [dim]{score.faults} not answered[/]" if score.faults else ""
            outcome = f"refusals  {score.refusals:3d}/{score.n}  {kl}{lost}{broken}"
        self._print(f"{star} trial {score.number:3d}  {outcome}  [dim]{_edit(score)}[/]")

    def say(self, text: str) -> None:
        """A plain line."""
        self._print(escape(printable(text)))

    def _print(self, markup: str) -> None:
        console = self._bars.console if self._bars else self._console
        console.print(markup, highlight=False, soft_wrap=not console.is_terminal)

    def _progress(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            _Count(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )


def front_table(scores: tuple[TrialScore, ...], search: SearchConfig | None) -> Table | None:
    """The trials that no other one beats, the one that would be picked now first and marked; None without any."""
    from sombrero.search import pareto_front, rank_finalists
    from sombrero.stages.reaching import constraints

    front = pareto_front(scores) if search is None else rank_finalists(scores, constraints(search))
    if not front:
        return None
    planned = "" if search is None else f" of {search.trials}"
    more = f", {FRONT_SHOWN} shown" if len(front) > FRONT_SHOWN else ""
    title = f"Front: {len(front)} of the {len(scores)}{planned} trials so far{more}"
    table = Table(
        "", "trial", "refusals", "KL", "edit", title=title, title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for place, score in enumerate(front[:FRONT_SHOWN]):
        lost = f", {score.lost}/{score.n_true} lost" if score.n_true else ""
        best = "[bold yellow]best[/]" if place == 0 and search is not None else ""
        table.add_row(best, str(score.number), f"{score.refusals}/{score.n}{lost}", _kl(score), _edit(score))
    return table


def _kl(score: TrialScore) -> str:
    return "   –  " if score.kl is None else f"{score.kl:6.3f}"


def _edit(score: TrialScore) -> str:
    where = score.parameters
    units = "single" if where.directions == "single" else "units " + "+".join(map(str, where.units))
    return f"{where.rule}, {units}"


class _Count(ProgressColumn):
    """Items done of all; nothing where a stage is one piece."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        return Text(f"{int(task.completed)}/{int(task.total)}", style="progress.download")


class _Rate(ProgressColumn):
    """Items a second, or seconds an item where that is slower."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="progress.data.speed")
